/* Tries: makes 16-bit segments, whose handling has had holes
 * Must:  EPERM
 * See:   modify_ldt(2); CVE-2017-17053 */
#include "attempt.h"

int main(void)
{
    char table[64];
    attempt("modify_ldt", syscall(SYS_modify_ldt, 0, table, sizeof table));
    reached("the local descriptor table");
}
