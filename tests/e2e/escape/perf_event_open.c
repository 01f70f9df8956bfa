/* Tries: counts events of the machine
 * Must:  EPERM
 * See:   perf_event_open(2); CVE-2013-2094 */
#include "attempt.h"

#include <linux/perf_event.h>

int main(void)
{
    struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attributes};
    attributes.config = PERF_COUNT_SW_TASK_CLOCK;
    attributes.exclude_kernel = 1;
    attempt("perf_event_open", syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0));
    reached("an event is counted");
}
