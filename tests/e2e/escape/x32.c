/* Tries: calls by the numbers of the x32 ABI, which filters for x86_64 may not know
 * Must:  ENOSYS
 * See:   syscall(2); asm/unistd.h, __X32_SYSCALL_BIT */
#include "attempt.h"

int main(void)
{
    attempt("getpid of x32", syscall(0x40000000 + SYS_getpid));
    reached("a call by another number");
}
