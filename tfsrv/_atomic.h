/* Atomic operations for Cython's C mode, on plain integers and pointers.
 *
 * The compiler's builtins are used because Cython cannot declare _Atomic types;
 * ThreadSanitizer understands them. One macro serves every width: _atomic.pxd
 * declares it once a type.
 */
#ifndef TFSRV_ATOMIC_H
#define TFSRV_ATOMIC_H

#define tfsrv_load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define tfsrv_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define tfsrv_load_seq_cst(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define tfsrv_store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define tfsrv_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define tfsrv_store_seq_cst(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define tfsrv_add_relaxed(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#define tfsrv_add_acq_rel(p, v) __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL)
#define tfsrv_add_seq_cst(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
#define tfsrv_exchange(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL)
#define tfsrv_fence() __atomic_thread_fence(__ATOMIC_SEQ_CST)
/* Weak forms may fail without cause: call them in a loop. *expected takes the value seen. */
#define tfsrv_cas_weak(p, expected, v) \
    __atomic_compare_exchange_n((p), (expected), (v), 1, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
#define tfsrv_cas_strong(p, expected, v) \
    __atomic_compare_exchange_n((p), (expected), (v), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)

#if defined(__x86_64__) || defined(__i386__)
#define tfsrv_pause() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define tfsrv_pause() __asm__ __volatile__("yield")
#else
#define tfsrv_pause() ((void)0)
#endif

#endif
