/* Entry point and the memory functions gcc may call: what a C library would bring. The sanitizer build links libc and
 * takes main from here instead. */
#include "stages.h"

_Noreturn void begin(long argc);

/* Without an argument it is one jobinit, with one (whatever it says) the nursery of many. */
_Noreturn void begin(long argc)
{
    if (argc > 1)
        nursery();
    outer();
}

#ifdef JOBINIT_HOSTED

int main(int argc, char **argv)
{
    (void)argv;
    begin(argc);
}

#else

#if defined(__x86_64__)
__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov (%rsp), %rdi\n and $-16, %rsp\n call begin\n hlt\n");
#else
__asm__(".globl _start\n_start: mov x29, #0\n mov x30, #0\n ldr x0, [sp]\n bl begin\n brk #1\n");
#endif

void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int value, size_t n);

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    unsigned char *t = to;
    const unsigned char *f = from;
    while (n-- > 0)
        *t++ = *f++;
    return to;
}

void *memset(void *to, int value, size_t n)
{
    unsigned char *t = to;
    while (n-- > 0)
        *t++ = (unsigned char)value;
    return to;
}

#endif
