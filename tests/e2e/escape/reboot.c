/* Tries: restarts the machine; with a number that the kernel refuses once it has seen the privilege
 * Must:  EPERM
 * See:   reboot(2) */
#include "attempt.h"

int main(void)
{
    past_permission("reboot", syscall(SYS_reboot, 0, 0, 0, 0), EINVAL);
}
