/* Tries: loads a kernel module
 * Must:  EPERM
 * See:   init_module(2) */
#include "attempt.h"

int main(void)
{
    past_permission("init_module", syscall(SYS_init_module, "no module", 9, ""), ENOEXEC);
}
