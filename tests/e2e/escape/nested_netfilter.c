/* Tries: makes user and network namespaces of its own, to reach netfilter's configuration
 * Must:  EPERM
 * See:   CVE-2022-32250, CVE-2024-1086 (nf_tables by way of a user namespace) */
#include "attempt.h"

#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int main(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    attempt("unshare", unshare(CLONE_NEWUSER | CLONE_NEWNET));
    /* Netfilter may be a module; CAP_NET_ADMIN over a namespace is what it asks for, and what this asks for. */
    int fd = (int)attempt("socket", socket(AF_INET, SOCK_DGRAM, 0));
    attempt("SIOCSIFFLAGS", ioctl(fd, SIOCSIFFLAGS, &request));
    reached("a network can be configured");
}
