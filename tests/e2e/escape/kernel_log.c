/* Tries: reads the kernel's log
 * Must:  EPERM
 * See:   syslog(2) */
#include "attempt.h"

int main(void)
{
    char text[256];
    attempt("syslog", syscall(SYS_syslog, 3 /* SYSLOG_ACTION_READ_ALL */, text, sizeof text));
    reached("lines of the log");
}
