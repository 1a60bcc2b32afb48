/* Included before everything else (-include): the system calls of rsock_nf/native/c become those of kernel.c.
 * The fuzzer's own runtime keeps the real ones.
 */
#define clock_gettime kernel_clock_gettime
#define close kernel_close_fd
#define epoll_create1 kernel_epoll_create1
#define epoll_ctl kernel_epoll_ctl
#define epoll_wait kernel_epoll_wait
#define ioctl kernel_ioctl
#define recvmmsg kernel_recvmmsg
#define sendmsg kernel_sendmsg
#define sendto kernel_sendto
