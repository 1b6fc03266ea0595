/* Numbers in JSON: decimal digits to binary and back, in the ranges that most numbers are in.
 *
 * All is static inline, so that loops over arrays keep it in place; a function that does not
 * serve a number (too long, too small, too large) says so with NULL, and _json_numbers.pyx
 * asks the C++ standard library then. Needs a little-endian machine and __int128.
 */
#ifndef TFSRV_JSON_DIGITS_H
#define TFSRV_JSON_DIGITS_H

#include <stdint.h>
#include <string.h>

__extension__ typedef unsigned __int128 json_wide;

/* Room that printing one number needs, more than the longest text: words are stored whole. */
#define JSON_NUMBER_BYTES 48
/* Bytes that json_scan may look at. */
#define JSON_SCAN_BYTES 64

#define JSON_WIDE(high, low) ((json_wide)(high) << 64 | (json_wide)(low))
#define JSON_ZEROS 0x3030303030303030ULL  /* "00000000" */
#define JSON_MOST_NEAR 27
#define JSON_LEAST_POWER (-40)

/* 5^0 to 5^44. */
static const json_wide json_fives[] = {
    JSON_WIDE(0x0, 0x1), JSON_WIDE(0x0, 0x5),
    JSON_WIDE(0x0, 0x19), JSON_WIDE(0x0, 0x7d),
    JSON_WIDE(0x0, 0x271), JSON_WIDE(0x0, 0xc35),
    JSON_WIDE(0x0, 0x3d09), JSON_WIDE(0x0, 0x1312d),
    JSON_WIDE(0x0, 0x5f5e1), JSON_WIDE(0x0, 0x1dcd65),
    JSON_WIDE(0x0, 0x9502f9), JSON_WIDE(0x0, 0x2e90edd),
    JSON_WIDE(0x0, 0xe8d4a51), JSON_WIDE(0x0, 0x48c27395),
    JSON_WIDE(0x0, 0x16bcc41e9), JSON_WIDE(0x0, 0x71afd498d),
    JSON_WIDE(0x0, 0x2386f26fc1), JSON_WIDE(0x0, 0xb1a2bc2ec5),
    JSON_WIDE(0x0, 0x3782dace9d9), JSON_WIDE(0x0, 0x1158e460913d),
    JSON_WIDE(0x0, 0x56bc75e2d631), JSON_WIDE(0x0, 0x1b1ae4d6e2ef5),
    JSON_WIDE(0x0, 0x878678326eac9), JSON_WIDE(0x0, 0x2a5a058fc295ed),
    JSON_WIDE(0x0, 0xd3c21bcecceda1), JSON_WIDE(0x0, 0x422ca8b0a00a425),
    JSON_WIDE(0x0, 0x14adf4b7320334b9), JSON_WIDE(0x0, 0x6765c793fa10079d),
    JSON_WIDE(0x2, 0x4fce5e3e2502611), JSON_WIDE(0xa, 0x18f07d736b90be55),
    JSON_WIDE(0x32, 0x7cb2734119d3b7a9), JSON_WIDE(0xfc, 0x6f7c40458122964d),
    JSON_WIDE(0x4ee, 0x2d6d415b85acef81), JSON_WIDE(0x18a6, 0xe32246c99c60ad85),
    JSON_WIDE(0x7b42, 0x6fab61f00de36399), JSON_WIDE(0x2684c, 0x2e58e9b04570f1fd),
    JSON_WIDE(0xc097c, 0xe7bc90715b34b9f1), JSON_WIDE(0x3c2f70, 0x86aed236c807a1b5),
    JSON_WIDE(0x12ced32, 0xa16a1b11e8262889), JSON_WIDE(0x5e0a1fd, 0x2712875988becaad),
    JSON_WIDE(0x1d6329f1, 0xc35ca4bfabb9f561), JSON_WIDE(0x92efd1b8, 0xd0cf37be5aa1cae5),
    JSON_WIDE(0x2deaf189c, 0x140c16b7c528f679), JSON_WIDE(0xe596b7b0c, 0x643c7196d9ccd05d),
    JSON_WIDE(0x47bf19673d, 0xf52e37f2410011d1),
};

/* 5^0 to 5^JSON_MOST_NEAR, all the ones that 64 bits hold, shifted so that the highest bit is set. */
static const uint64_t json_near_fives[] = {
    0x8000000000000000, 0xa000000000000000, 0xc800000000000000, 0xfa00000000000000,
    0x9c40000000000000, 0xc350000000000000, 0xf424000000000000, 0x9896800000000000,
    0xbebc200000000000, 0xee6b280000000000, 0x9502f90000000000, 0xba43b74000000000,
    0xe8d4a51000000000, 0x9184e72a00000000, 0xb5e620f480000000, 0xe35fa931a0000000,
    0x8e1bc9bf04000000, 0xb1a2bc2ec5000000, 0xde0b6b3a76400000, 0x8ac7230489e80000,
    0xad78ebc5ac620000, 0xd8d726b7177a8000, 0x878678326eac9000, 0xa968163f0a57b400,
    0xd3c21bcecceda100, 0x84595161401484a0, 0xa56fa5b99019a5c8, 0xcecb8f27f4200f3a,
};

/* The least double that is not below 10^j, from JSON_LEAST_POWER on. */
static const double json_tens_up[] = {
    0x1.16c262777579dp-133, 0x1.5c72fb1552d84p-130, 0x1.b38fb9daa78e5p-127, 0x1.1039d428a8b8fp-123,
    0x1.54484932d2e73p-120, 0x1.a95a5b7f87a0fp-117, 0x1.09d8792fb4c4ap-113, 0x1.4c4e977ba1f5cp-110,
    0x1.9f623d5a8a733p-107, 0x1.039d665896880p-103, 0x1.4484bfeebc2a0p-100, 0x1.95a5efea6b348p-97,
    0x1.fb0f6be50601ap-94, 0x1.3ce9a36f23c10p-90, 0x1.8c240c4aecb14p-87, 0x1.ef2d0f5da7dd9p-84,
    0x1.357c299a88ea8p-80, 0x1.82db34012b252p-77, 0x1.e392010175ee6p-74, 0x1.2e3b40a0e9b50p-70,
    0x1.79ca10c924224p-67, 0x1.d83c94fb6d2adp-64, 0x1.2725dd1d243acp-60, 0x1.70ef54646d497p-57,
    0x1.cd2b297d889bdp-54, 0x1.203af9ee75616p-50, 0x1.6849b86a12b9cp-47, 0x1.c25c268497682p-44,
    0x1.19799812dea12p-40, 0x1.5fd7fe1796496p-37, 0x1.b7cdfd9d7bdbbp-34, 0x1.12e0be826d695p-30,
    0x1.5798ee2308c3ap-27, 0x1.ad7f29abcaf49p-24, 0x1.0c6f7a0b5ed8ep-20, 0x1.4f8b588e368f1p-17,
    0x1.a36e2eb1c432dp-14, 0x1.0624dd2f1a9fcp-10, 0x1.47ae147ae147bp-7, 0x1.999999999999ap-4,
    0x1p+0, 0x1.4000000000000p+3, 0x1.9000000000000p+6, 0x1.f400000000000p+9,
    0x1.3880000000000p+13, 0x1.86a0000000000p+16, 0x1.e848000000000p+19, 0x1.312d000000000p+23,
    0x1.7d78400000000p+26, 0x1.dcd6500000000p+29, 0x1.2a05f20000000p+33, 0x1.74876e8000000p+36,
    0x1.d1a94a2000000p+39, 0x1.2309ce5400000p+43, 0x1.6bcc41e900000p+46, 0x1.c6bf526340000p+49,
    0x1.1c37937e08000p+53, 0x1.6345785d8a000p+56, 0x1.bc16d674ec800p+59, 0x1.158e460913d00p+63,
    0x1.5af1d78b58c40p+66, 0x1.b1ae4d6e2ef50p+69, 0x1.0f0cf064dd592p+73, 0x1.52d02c7e14af7p+76,
    0x1.a784379d99db5p+79, 0x1.08b2a2c280291p+83, 0x1.4adf4b7320335p+86, 0x1.9d971e4fe8402p+89,
    0x1.027e72f1f1282p+93, 0x1.431e0fae6d722p+96, 0x1.93e5939a08ceap+99, 0x1.f8def8808b025p+102,
    0x1.3b8b5b5056e17p+106, 0x1.8a6e32246c99dp+109, 0x1.ed09bead87c04p+112, 0x1.3426172c74d83p+116,
    0x1.812f9cf7920e3p+119, 0x1.e17b84357691cp+122, 0x1.2ced32a16a1b2p+126, 0x1.78287f49c4a1ep+129,
    0x1.d6329f1c35ca5p+132, 0x1.25dfa371a19e7p+136, 0x1.6f578c4e0a061p+139, 0x1.cb2d6f618c879p+142,
    0x1.1efc659cf7d4cp+146, 0x1.66bb7f0435c9fp+149, 0x1.c06a5ec5433c7p+152, 0x1.18427b3b4a05cp+156,
    0x1.5e531a0a1c873p+159, 0x1.b5e7e08ca3a90p+162,
};

/* 10^0 to 10^19. */
static const uint64_t json_tens[] = {
    1ULL, 10ULL, 100ULL, 1000ULL,
    10000ULL, 100000ULL, 1000000ULL, 10000000ULL,
    100000000ULL, 1000000000ULL, 10000000000ULL, 100000000000ULL,
    1000000000000ULL, 10000000000000ULL, 100000000000000ULL, 1000000000000000ULL,
    10000000000000000ULL, 100000000000000000ULL, 1000000000000000000ULL, 10000000000000000000ULL,
};

/* 10^0 to 10^64, nearest; up to 10^22 they are exact. */
static const double json_double_tens[] = {
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12,
    1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22, 1e23, 1e24, 1e25,
    1e26, 1e27, 1e28, 1e29, 1e30, 1e31, 1e32, 1e33, 1e34, 1e35, 1e36, 1e37, 1e38,
    1e39, 1e40, 1e41, 1e42, 1e43, 1e44, 1e45, 1e46, 1e47, 1e48, 1e49, 1e50, 1e51,
    1e52, 1e53, 1e54, 1e55, 1e56, 1e57, 1e58, 1e59, 1e60, 1e61, 1e62, 1e63, 1e64,
};

static inline uint64_t json_load(const char* at) {
    uint64_t word;
    memcpy(&word, at, 8);
    return word;
}

/* ---- printing ---- */

/* The digits of a number below 10^8, the first in the lowest byte. */
static inline uint64_t json_eight_digits(uint32_t value) {
    uint64_t fours = value / 10000 | (uint64_t)(value % 10000) << 32;
    uint64_t tops = (fours * 10486 >> 20) & 0x7f0000007fULL;  /* each by 100 */
    uint64_t twos = tops + ((fours - 100 * tops) << 16);
    uint64_t tens = (twos * 103 >> 10) & 0x000f000f000f000fULL;
    return tens + ((twos - 10 * tens) << 8);
}

static inline char* json_put_uint64(char* at, uint64_t value) {
    uint64_t digits;
    uint32_t top;
    unsigned zeros;
    if (value >= 100000000) {
        if (value >= 10000000000000000ULL) {  /* at most 1844 of them */
            digits = json_eight_digits((uint32_t)(value / 10000000000000000ULL));
            value %= 10000000000000000ULL;
            zeros = (unsigned)__builtin_ctzll(digits) >> 3;
            digits = (digits | JSON_ZEROS) >> 8 * zeros;
            memcpy(at, &digits, 8);
            at += 8 - zeros;
            digits = json_eight_digits((uint32_t)(value / 100000000)) | JSON_ZEROS;
            memcpy(at, &digits, 8);
            at += 8;
        } else {
            top = (uint32_t)(value / 100000000);
            digits = json_eight_digits(top);
            zeros = (unsigned)__builtin_ctzll(digits) >> 3;
            digits = (digits | JSON_ZEROS) >> 8 * zeros;
            memcpy(at, &digits, 8);
            at += 8 - zeros;
        }
        digits = json_eight_digits((uint32_t)(value % 100000000)) | JSON_ZEROS;
        memcpy(at, &digits, 8);
        return at + 8;
    }
    if (value < 10) {
        *at = (char)('0' + value);
        return at + 1;
    }
    digits = json_eight_digits((uint32_t)value);
    zeros = (unsigned)__builtin_ctzll(digits) >> 3;
    digits = (digits | JSON_ZEROS) >> 8 * zeros;
    memcpy(at, &digits, 8);
    return at + 8 - zeros;
}

static inline char* json_put_int64(char* at, int64_t value) {
    *at = '-';
    at += value < 0;
    return json_put_uint64(at, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

/* "e", a sign and at least two digits, as printf has it. */
static inline char* json_put_exponent(char* at, int exponent) {
    int size = exponent < 0 ? -exponent : exponent;
    at[0] = 'e';
    at[1] = exponent < 0 ? '-' : '+';
    at += 2;
    if (size >= 100) {
        *at++ = (char)('0' + size / 100);
        size %= 100;
    }
    at[0] = (char)('0' + size / 10);
    at[1] = (char)('0' + size % 10);
    return at + 2;
}

/* What "%.<precision>g" makes of `first`.`rest` times ten to `exponent`, and ".0" behind a whole
 * number. `rest` holds 16 digits, the first of them in the lowest byte.
 */
static inline char* json_put_digits(
        char* at, unsigned first, json_wide rest, int exponent, int precision) {
    const json_wide zeros = JSON_WIDE(JSON_ZEROS, JSON_ZEROS);
    const uint64_t high = (uint64_t)(rest >> 64), low = (uint64_t)rest;
    /* Digits behind the first one, without zeros at the end. */
    const int more = high ? 16 - (__builtin_clzll(high) >> 3)
                   : low ? 8 - (__builtin_clzll(low) >> 3) : 0;
    const char digit = (char)('0' + first);
    rest |= zeros;
    if (exponent < -4 || exponent >= precision) {
        at[0] = digit;
        at[1] = '.';
        memcpy(at + 2, &rest, 16);
        return json_put_exponent(at + (more ? 2 + more : 1), exponent);
    }
    if (exponent < 0) {
        memcpy(at, "0.000000", 8);
        at += 1 - exponent;
        at[0] = digit;
        memcpy(at + 1, &rest, 16);
        return at + 1 + more;
    }
    at[0] = digit;
    memcpy(at + 1, &rest, 16);
    at += 1 + exponent;
    at[0] = '.';
    if (more <= exponent) {
        at[1] = '0';
        return at + 2;
    }
    rest >>= 8 * exponent;  /* below 16: precision is 17 at most, and there are more digits */
    memcpy(at + 1, &rest, 16);
    return at + 1 + more - exponent;
}

/* A positive number `mantissa` * 2^`scale`, to be printed: its decimal exponent is `power`. */
typedef struct {
    uint64_t mantissa;
    int scale;
    int power;
} JsonBinary;

/* Round x = (`whole` + `part` / `unit`) * 10^n to six digits if these parse back to x, else to all
 * digits of `whole`; ties go to even digits. `precision` is how many they are, and `tail` ten to what
 * they are more than six. `ulp`, in parts of `unit`, is x's distance from the next floating-point
 * number; from the one before it has half of that if x is a power of two.
 *
 * Gives 6 or `precision`, and *digits, of `precision` digits; ten to it after rounding up.
 */
static inline int json_round(
        uint64_t whole, json_wide part, json_wide unit, json_wide ulp, int precision, uint64_t tail,
        int is_odd, int is_power_of_two, uint64_t* digits) {
    const uint64_t six = whole / tail, over = whole % tail;
    const uint64_t up = 2 * over + ((part != 0) | (six & 1)) > tail;
    const uint64_t near = over + ((0 - up) & (tail - 2 * over));
    json_wide distance;
    if (near <= 64) {  /* half an ulp is at most 60, 10^9 / 2^24, for floats; 12 for doubles */
        distance = near * unit;
        distance = up ? distance - part : distance + part;
        distance *= !up && is_power_of_two ? 4 : 2;
        if (distance < ulp || (distance == ulp && !is_odd)) {
            *digits = (six + up) * tail;
            return 6;
        }
    }
    *digits = whole + (2 * part + (whole & 1) > unit);
    return precision;
}

/* json_round of a number times 10^power, which has `precision` digits before its point, where
 * `power` is from 0 to JSON_MOST_NEAR.
 */
static inline int json_digits_near(
        const JsonBinary* x, int power, int precision, uint64_t tail, int is_power_of_two,
        uint64_t* digits) {
    /* The point comes to stand 64 bits from the end: power + the bits of 5^power are taken away. */
    const int shift = x->scale + (power * 1741647 >> 19) + 1;
    const uint64_t five = json_near_fives[power];
    const json_wide product = (json_wide)(x->mantissa << shift) * five;
    return json_round(
        (uint64_t)(product >> 64), (uint64_t)product, (json_wide)1 << 64, (json_wide)five << shift,
        precision, tail, x->mantissa & 1, is_power_of_two, digits);
}

/* The same for a power from -30 to 40, as far as product and shift fit: `guard` bits below the
 * mantissa's last make each shift one to the right.
 */
static __attribute__((noinline, unused)) int json_digits_far(
        const JsonBinary* x, int power, int precision, uint64_t tail, int guard,
        int is_power_of_two, uint64_t* digits) {
    json_wide product, unit, ulp;
    if (power >= 0) {
        ulp = json_fives[power] << guard;
        unit = (json_wide)1 << (guard - x->scale - power);
    } else {  /* the twos of the divisor go into the shift */
        ulp = (json_wide)1 << (x->scale + power);
        unit = json_fives[-power];
    }
    product = x->mantissa * ulp;
    return json_round(
        (uint64_t)(product / unit), product % unit, unit, ulp, precision, tail, x->mantissa & 1,
        is_power_of_two, digits);
}

/* Print zero or a float from 2^-105 on; NULL for smaller ones, infinity and NaN. */
static inline char* json_put_usual_float(char* at, float value) {
    JsonBinary x;
    uint32_t bits;
    uint64_t digits;
    int exponent, precision;
    memcpy(&bits, &value, 4);
    at[0] = '-';
    at += bits >> 31;
    bits &= 0x7fffffff;
    if (bits == 0) {
        memcpy(at, "0.0", 3);
        return at + 3;
    }
    if (bits >= 0x7f800000 || bits < 0x0b000000)
        return NULL;
    memcpy(&value, &bits, 4);
    exponent = (int)(bits >> 23) - 127;
    x.mantissa = (bits & 0x7fffff) | 0x800000;
    x.scale = exponent - 23;
    x.power = exponent * 315653 >> 20;  /* floor(log10(2^exponent)) */
    x.power += (double)value >= json_tens_up[x.power + 1 - JSON_LEAST_POWER];
    if ((unsigned)(8 - x.power) <= JSON_MOST_NEAR)
        precision = json_digits_near(&x, 8 - x.power, 9, 1000, x.mantissa == 0x800000, &digits);
    else
        precision = json_digits_far(&x, 8 - x.power, 9, 1000, 7, x.mantissa == 0x800000, &digits);
    if (digits == 1000000000) {
        digits = 100000000;
        x.power++;
    }
    return json_put_digits(
        at, (unsigned)(digits / 100000000), json_eight_digits((uint32_t)(digits % 100000000)),
        x.power, precision);
}

/* Print zero or a double above 1e-14 and below 1e47; NULL for all others. */
static inline char* json_put_usual_double(char* at, double value) {
    const uint64_t tail = 100000000000ULL, hidden = 1ULL << 52, most = 10000000000000000ULL;
    JsonBinary x;
    uint64_t bits, digits, rest;
    int exponent, precision;
    memcpy(&bits, &value, 8);
    at[0] = '-';
    at += bits >> 63;
    bits &= ~(1ULL << 63);
    if (bits == 0) {
        memcpy(at, "0.0", 3);
        return at + 3;
    }
    memcpy(&value, &bits, 8);
    if (!(value > 1e-14 && value < 1e47))  /* this 1e-14 is a little less than 10^-14 */
        return NULL;
    exponent = (int)(bits >> 52) - 1023;
    x.mantissa = (bits & (hidden - 1)) | hidden;
    x.scale = exponent - 52;
    x.power = exponent * 315653 >> 20;
    x.power += value >= json_tens_up[x.power + 1 - JSON_LEAST_POWER];
    if ((unsigned)(16 - x.power) <= JSON_MOST_NEAR)
        precision = json_digits_near(&x, 16 - x.power, 17, tail, x.mantissa == hidden, &digits);
    else
        precision = json_digits_far(&x, 16 - x.power, 17, tail, 5, x.mantissa == hidden, &digits);
    if (digits == 10 * most) {
        digits = most;
        x.power++;
    }
    rest = digits % most;
    return json_put_digits(
        at, (unsigned)(digits / most),
        JSON_WIDE(json_eight_digits((uint32_t)(rest % 100000000)),
                  json_eight_digits((uint32_t)(rest / 100000000))),
        x.power, precision);
}

/* ---- parsing ---- */

/* A number as it is written: mantissa * 10^exponent. */
typedef struct {
    uint64_t mantissa;
    int exponent;
    int negative;
    int is_integer;  /* there is neither a point nor an exponent */
} JsonDecimal;

/* How many of the eight bytes are digits before the first that is none; `word` ^ JSON_ZEROS. */
static inline unsigned json_digits_in(uint64_t word) {
    /* A carry goes to higher bytes only, which come after the one that is no digit. */
    const uint64_t others = ((word + 0x7676767676767676ULL) | word) & 0x8080808080808080ULL;
    return others ? (unsigned)__builtin_ctzll(others) >> 3 : 8;
}

/* The number that eight digits are, the first in the lowest byte, each from 0 to 9. */
static inline uint64_t json_of_eight(uint64_t digits) {
    const uint64_t mask = 0x000000ff000000ffULL;
    digits = digits * 10 + (digits >> 8);
    return ((digits & mask) * 0x000f424000000064ULL
            + (digits >> 16 & mask) * 0x0000271000000001ULL) >> 32;
}

/* Add up to 24 digits to *value; how many there were, and *at behind them. The value is right
 * if they are at most 19 after the zeros that they begin with.
 */
static inline unsigned json_take_digits(const char** at, uint64_t* value) {
    unsigned all = 0, count;
    uint64_t digits;
    do {
        digits = json_load(*at) ^ JSON_ZEROS;
        count = json_digits_in(digits);
        if (count < 8) {
            if (count != 0)
                *value = *value * json_tens[count] + json_of_eight(digits << (64 - 8 * count));
            *at += count;
            return all + count;
        }
        *value = *value * 100000000 + json_of_eight(digits);
        *at += 8;
        all += 8;
    } while (all < 24);
    return all;
}

/* Read a number in JSON's grammar. What is behind it, or NULL: it is none, or it has more than
 * 19 digits, or an exponent of more than 7. Looks at up to JSON_SCAN_BYTES bytes, whether or not
 * they are there.
 */
static inline const char* json_scan(const char* at, JsonDecimal* number) {
    const char* start;
    uint64_t value = 0, digits;
    unsigned whole, part, zeros, count;
    int exponent = 0;
    number->negative = *at == '-';
    at += number->negative;
    if ((unsigned char)(at[0] - '0') <= 9 && at[1] == '.') {  /* most floats */
        value = (unsigned char)(at[0] - '0');
        whole = value != 0;
        at++;
    } else if (*at == '0') {
        at++;
        whole = 0;
    } else {
        whole = json_take_digits(&at, &value);
        if (whole == 0 || whole > 19)
            return NULL;
    }
    number->is_integer = 1;
    if (*at == '.') {
        start = ++at;
        part = json_take_digits(&at, &value);
        if (part == 0)
            return NULL;
        if (whole + part > 19) {
            if (whole != 0 || part >= 24)
                return NULL;
            for (zeros = 0; zeros < part && start[zeros] == '0'; zeros++) {}
            if (part - zeros > 19)
                return NULL;
        }
        exponent = -(int)part;
        number->is_integer = 0;
    }
    if ((*at | 0x20) == 'e') {
        const int down = at[1] == '-';
        at += 1 + (down || at[1] == '+');
        digits = json_load(at) ^ JSON_ZEROS;
        count = json_digits_in(digits);
        if (count == 0 || count == 8)
            return NULL;
        digits = json_of_eight(digits << (64 - 8 * count));
        exponent += down ? -(int)digits : (int)digits;
        at += count;
        number->is_integer = 0;
    }
    number->mantissa = value;
    number->exponent = exponent;
    return at;
}

static __attribute__((noinline, unused)) const char* json_scan_near_end(
        const char* at, const char* end, JsonDecimal* number) {
    char padded[JSON_SCAN_BYTES] = {0};
    const char* behind;
    memcpy(padded, at, (size_t)(end - at));
    behind = json_scan(padded, number);
    return behind == NULL ? NULL : at + (behind - padded);
}

/* json_scan for bytes up to `end`. */
static inline const char* json_scan_until(const char* at, const char* end, JsonDecimal* number) {
    if (end - at >= JSON_SCAN_BYTES)
        return json_scan(at, number);
    return json_scan_near_end(at, end, number);
}

/* The nearest float, 1, or 0 if it cannot be told from a double.
 *
 * The double is off by three units in its last place at most: one half each for the mantissa,
 * the power of ten and the product, each worth up to two at the next. Rounded to a float it is
 * right unless a point half-way between two floats is that near, or the float is subnormal.
 */
static inline int json_to_float(const JsonDecimal* number, float* value) {
    double real = (double)number->mantissa;
    uint64_t bits;
    if (number->exponent < 0) {
        if (number->exponent < -64)
            return 0;
        real /= json_double_tens[-number->exponent];
    } else {
        if (number->exponent > 64)
            return 0;
        real *= json_double_tens[number->exponent];
    }
    memcpy(&bits, &real, 8);
    /* Half-way is 0x10000000 of the 29 bits that a float has not. */
    if ((bits & 0x1fffffff) - 0x0ffffff8 <= 16 || real < 0x1p-126) {
        if (number->mantissa != 0)
            return 0;
        if (number->is_integer) {  /* the integer -0 is 0 */
            *value = 0;
            return 1;
        }
    }
    *value = (float)(number->negative ? -real : real);
    return 1;
}

/* The nearest double, 1, or 0 if it takes more than one exact step (W. D. Clinger). */
static inline int json_to_double(const JsonDecimal* number, double* value) {
    double real = (double)number->mantissa;
    if (number->mantissa > 1ULL << 53 || number->exponent < -22 || number->exponent > 22)
        return 0;
    if (number->exponent < 0)
        real /= json_double_tens[-number->exponent];
    else
        real *= json_double_tens[number->exponent];
    *value = number->negative && !(number->is_integer && number->mantissa == 0) ? -real : real;
    return 1;
}

#endif
