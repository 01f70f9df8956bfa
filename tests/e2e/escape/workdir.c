/* Tries: starts in a directory of the machine, by naming a descriptor of the launch as its working directory
 * Must: launch-failed
 * See: proc_pid_fd(5), openat2(2); CVE-2024-21626 (runc, leaked descriptors) */
#include "attempt.h"

#include <sys/statvfs.h>

int main(int argc, char **argv)
{
    char directory[4096], up[8192];
    struct statvfs settings;
    if (argc != 2)
        return 2;
    snprintf(up, sizeof up, "../../../../../../../../../..%s", argv[1]);
    attempt("getcwd", syscall(SYS_getcwd, directory, sizeof directory));
    if (directory[0] != '/')
        reached(access(up, R_OK) == 0 ? "the machine's tree" : directory);
    attempt(directory, statvfs(".", &settings));
    if (strcmp(directory, "/proc/sys") == 0 && !(settings.f_flag & ST_RDONLY))
        reached("/proc/sys as it is below the read-only one");
    stopped("nothing", directory);
}
