/* Tries: enters a namespace of the job's init, which still has the node's cgroup namespace
 * Must:  EACCES
 * See:   setns(2), namespaces(7) */
#include "attempt.h"

#include <sched.h>

int main(void)
{
    int fd = (int)attempt("open /proc/1/ns/cgroup", open("/proc/1/ns/cgroup", O_RDONLY));
    attempt("setns", setns(fd, CLONE_NEWCGROUP));
    reached("init's cgroup namespace");
}
