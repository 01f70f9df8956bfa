/* Tries: reaches for the machine's I/O ports
 * Must:  EPERM
 * See:   iopl(2) */
#include "attempt.h"

int main(void)
{
    attempt("iopl", syscall(SYS_iopl, 3));
    reached("the ports");
}
