/* The kernel without a C library: system calls that return -errno, and the four string helpers jobinit needs.
 *
 * Why: the start-up code of a static glibc costs 0.28 ms per process (it asks cpuid dozens of times, which is slow on
 * virtual machines), three times what the whole empty process costs, and every job pays it. Also nothing can hide
 * behind a wrapper here: no cached pid, no locks after clone, no errno. libc headers are used for constants only. */
#ifndef SYS_H
#define SYS_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

static inline long syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = nr;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
#else
#error "jobinit knows x86_64 and aarch64"
#endif
}

#define SYS_0(n) syscall6((n), 0, 0, 0, 0, 0, 0)
#define SYS_1(n, a) syscall6((n), (long)(a), 0, 0, 0, 0, 0)
#define SYS_2(n, a, b) syscall6((n), (long)(a), (long)(b), 0, 0, 0, 0)
#define SYS_3(n, a, b, c) syscall6((n), (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS_4(n, a, b, c, d) syscall6((n), (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define SYS_5(n, a, b, c, d, e) syscall6((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define SYS_6(n, a, b, c, d, e, f) syscall6((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define SYS_PICK(n, a, b, c, d, e, f, name, ...) name
/* sys(SYS_x, arguments...): the result, or -errno. */
#define sys(...) SYS_PICK(__VA_ARGS__, SYS_6, SYS_5, SYS_4, SYS_3, SYS_2, SYS_1, SYS_0, 0)(__VA_ARGS__)

static inline _Noreturn void leave(int status)
{
    for (;;)
        sys(SYS_exit_group, status);
}

static inline size_t text_length(const char *text)
{
    size_t n = 0;
    while (text[n] != 0)
        n++;
    return n;
}

static inline int text_begins(const char *text, const char *with)
{
    while (*with != 0 && *text == *with) {
        text++;
        with++;
    }
    return *with == 0;
}

/* Copies text to *at, which must stay before end; end is where the final NUL may go at the latest. */
static inline char *text_append(char *at, const char *end, const char *text)
{
    while (*text != 0 && at < end)
        *at++ = *text++;
    *at = 0;
    return at;
}

static inline char *number_append(char *at, const char *end, uint64_t value)
{
    char digits[21];
    size_t n = sizeof digits - 1;
    digits[n] = 0;
    do {
        digits[--n] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    return text_append(at, end, digits + n);
}

static inline int64_t clock_ns(int clock)
{
    struct timespec ts = {0};
    sys(SYS_clock_gettime, clock, &ts); /* cannot fail for the two clocks used here */
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

#endif
