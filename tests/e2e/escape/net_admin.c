/* Tries: configures the network
 * Must:  EPERM
 * See:   netdevice(7), CAP_NET_ADMIN */
#include "attempt.h"

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int main(void)
{
    struct ifreq request = {.ifr_name = "lo"};
    int fd = (int)attempt("socket", socket(AF_INET, SOCK_DGRAM, 0));
    attempt("SIOCGIFMTU", ioctl(fd, SIOCGIFMTU, &request));
    attempt("SIOCSIFMTU", ioctl(fd, SIOCSIFMTU, &request)); /* to what it is already */
    reached("the MTU of lo");
}
