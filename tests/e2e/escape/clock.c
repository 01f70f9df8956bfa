/* Tries: sets the clock; to a rate that the kernel refuses once it has seen the privilege
 * Must:  EPERM
 * See:   adjtimex(2), clock_settime(2) */
#include "attempt.h"

#include <sys/timex.h>

int main(void)
{
    struct timex time = {.modes = ADJ_TICK, .tick = 0};
    past_permission("adjtimex", syscall(SYS_adjtimex, &time), EINVAL);
}
