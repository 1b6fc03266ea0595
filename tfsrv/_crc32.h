/* The inner loop of CRC-32 by carry-less multiplication, 64 bytes a step.
 *
 * The method and its constants are those of Gopal et al., "Fast CRC Computation for Generic
 * Polynomials Using PCLMULQDQ Instruction" (Intel, 2009), for reflected bits: a block of 16 bytes
 * that stands n bits further to the left is congruent to its halves times x^n modulo the polynomial.
 */
#ifndef TFSRV_CRC32_H
#define TFSRV_CRC32_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <emmintrin.h>
#include <wmmintrin.h>

static int tfsrv_crc32_can_fold(void) { return __builtin_cpu_supports("pclmul"); }

__attribute__((target("pclmul,sse2"))) static inline __m128i tfsrv_crc32_shift(
    __m128i block, __m128i factors) {
    return _mm_xor_si128(
        _mm_clmulepi64_si128(block, factors, 0x00), _mm_clmulepi64_si128(block, factors, 0x11));
}

/* Write 16 bytes to `folded` whose CRC, begun with 0, is that of `data`, begun with `crc`.
 * `size` is a multiple of 16, and 64 at least. */
__attribute__((target("pclmul,sse2"))) static void tfsrv_crc32_fold(
    uint32_t crc, const uint8_t* data, size_t size, uint8_t* folded) {
    const __m128i by_64 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
    const __m128i by_16 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i* at = (const __m128i*)data;
    __m128i a = _mm_xor_si128(_mm_loadu_si128(at), _mm_cvtsi32_si128((int)crc));
    __m128i b = _mm_loadu_si128(at + 1);
    __m128i c = _mm_loadu_si128(at + 2);
    __m128i d = _mm_loadu_si128(at + 3);
    at += 4;
    for (size -= 64; size >= 64; size -= 64, at += 4) {
        a = _mm_xor_si128(tfsrv_crc32_shift(a, by_64), _mm_loadu_si128(at));
        b = _mm_xor_si128(tfsrv_crc32_shift(b, by_64), _mm_loadu_si128(at + 1));
        c = _mm_xor_si128(tfsrv_crc32_shift(c, by_64), _mm_loadu_si128(at + 2));
        d = _mm_xor_si128(tfsrv_crc32_shift(d, by_64), _mm_loadu_si128(at + 3));
    }
    b = _mm_xor_si128(tfsrv_crc32_shift(a, by_16), b);
    c = _mm_xor_si128(tfsrv_crc32_shift(b, by_16), c);
    d = _mm_xor_si128(tfsrv_crc32_shift(c, by_16), d);
    for (; size >= 16; size -= 16, at += 1) {
        d = _mm_xor_si128(tfsrv_crc32_shift(d, by_16), _mm_loadu_si128(at));
    }
    _mm_storeu_si128((__m128i*)folded, d);
}

#else

static int tfsrv_crc32_can_fold(void) { return 0; }

static void tfsrv_crc32_fold(uint32_t crc, const uint8_t* data, size_t size, uint8_t* folded) {
    (void)crc, (void)data, (void)size, (void)folded;
}

#endif
#endif
