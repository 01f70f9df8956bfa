/* Tries: exchanges the root for another mount, to look at what was below
 * Must:  EPERM
 * See:   pivot_root(2) */
#include "attempt.h"

int main(void)
{
    attempt("chdir", chdir("/tmp"));
    attempt("pivot_root", syscall(SYS_pivot_root, ".", "."));
    reached("the root is another");
}
