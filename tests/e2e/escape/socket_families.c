/* Tries: opens sockets of families that jobs have no use for: VM, crypto, packet, Bluetooth, CAN
 * Must:  EAFNOSUPPORT
 * See:   socket(2); CVE-2021-26708 (vsock), CVE-2017-7308 (packet) */
#include "attempt.h"

#include <sys/socket.h>

int main(void)
{
    static const struct {
        int family, type;
    } sockets[] = {
        {AF_VSOCK, SOCK_STREAM}, {AF_ALG, SOCK_SEQPACKET}, {AF_PACKET, SOCK_RAW},
        {AF_BLUETOOTH, SOCK_RAW}, {AF_CAN, SOCK_RAW},      {AF_TIPC, SOCK_STREAM},
    };
    for (size_t i = 0; i < sizeof sockets / sizeof sockets[0]; i++)
        if (socket(sockets[i].family, sockets[i].type, 0) >= 0)
            reached("a socket of an unusual family");
        else if (errno != EAFNOSUPPORT)
            stopped(strerrorname_np(errno), "socket");
    stopped("EAFNOSUPPORT", "socket");
}
