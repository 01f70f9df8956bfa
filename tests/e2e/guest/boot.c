/* First process of the QEMU guest, alone in its initramfs: loads the modules that lie beside it, mounts the host's files
 * (virtiofs, read-only) as the root and goes on as guest_init, which the kernel's command line names. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void need(int result, const char *what)
{
    if (result >= 0)
        return;
    dprintf(1, "guest: %s: %s\n", what, strerror(errno));
    reboot(RB_POWER_OFF);
}

/* Their names begin with numbers: a module comes after those it needs. */
static void load_modules(void)
{
    struct dirent **names;
    const int count = scandir("/modules", &names, NULL, alphasort);
    need(count, "/modules");
    need(chdir("/modules"), "/modules");
    for (int i = 0; i < count; i++) {
        if (names[i]->d_name[0] == '.')
            continue;
        const int fd = open(names[i]->d_name, O_RDONLY | O_CLOEXEC);
        need(fd, names[i]->d_name);
        need((int)syscall(SYS_finit_module, fd, "", 0), names[i]->d_name);
        close(fd);
    }
}

static void use_console(void)
{
    const int console = open("/dev/console", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(console, fd);
}

int main(void)
{
    extern char **environ;
    char *const init = getenv("guest_init");
    char *const arguments[] = {init, NULL};
    mkdir("/dev", 0755);
    mkdir("/host", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    use_console();
    load_modules();
    need(mount("host", "/host", "virtiofs", 0, NULL), "virtiofs");
    need(mount(NULL, "/host", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), "read-only");
    need(chdir("/host"), "/host");
    need(mount(".", "/", NULL, MS_MOVE, NULL), "move to /");
    need(chroot("."), "chroot");
    need(execve(init, arguments, environ), init);
    return 1;
}
