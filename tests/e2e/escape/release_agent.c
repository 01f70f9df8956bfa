/* Tries: mounts cgroups, to have the kernel run a program of its own as root
 * Must:  EPERM
 * See:   cgroups(7), release_agent; CVE-2022-0492 */
#include "attempt.h"

#include <sys/mount.h>

int main(void)
{
    int v1 = mount("jbtest", "/tmp", "cgroup", 0, "memory");
    if (v1 < 0)
        attempt("mount", mount("jbtest", "/tmp", "cgroup2", 0, NULL));
    /* A cgroup namespace shows the job's own cgroup as the root, without the machine's release_agent. */
    if (open("/tmp/release_agent", O_WRONLY) >= 0)
        reached("release_agent open for writing");
    attempt("open", open(v1 < 0 ? "/tmp/memory.max" : "/tmp/memory.limit_in_bytes", O_WRONLY));
    reached("its own limit open for writing");
}
