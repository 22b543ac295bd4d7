/* SPDX-License-Identifier: MIT */
/*
 * Makes an exact amount of network traffic and prints what it did, for tests to compare an audit with.
 *
 * Prints one line of key=value words: pid, sent, calls, bytes, tid, comm, sports and errnos, then what the
 * subcommand adds.
 *   sent    UDP: datagrams that the kernel took; TCP: connects that were asked of the network (on_the_wire)
 *   calls   system calls made for that; bytes: payload that they took
 *   comm    of the thread that ran the subcommand; bytes that do not print are written \xHH
 *   sports, errnos  one item per call, in order: the socket's local port after it (0: none), and the name of
 *           its errno, or OK; udpburst and bench... make too many calls for that, and print failed=, errno= of
 *           the first failure, and sport=
 * storm, inns and forkdeep leave the calls to other processes, and have no such lists either: sent says how
 * many were made. inns prints the pid of the process that sent, as its parent sees it.
 *
 * Where a subcommand holds, it prints its line, sends one more datagram for every line that it reads and prints
 * sent= after it, and ends when there is no more to read, or after HOLD_LIMIT_S. Where it executes another
 * program, the line comes first.
 *
 * Exit status: 0 when the calls were made, whatever their errnos; 1 when something else failed, or a timed
 * call did; 2 for bad arguments; 77 when the kernel does not offer what the subcommand needs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/io_uring.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef TCP_FASTOPEN_NO_COOKIE
#define TCP_FASTOPEN_NO_COOKIE 34
#endif

enum {
	EXIT_USAGE = 2,
	EXIT_NOT_OFFERED = 77,
	GSO_SEGMENTS = 64, /* UDP_MAX_SEGMENTS of the older kernels */
	GSO_SEGMENT_BYTES = 8,
	MMSG_MAX = 1024,
	WRAP_FIRST = 40000, /* the ports that benchports goes round */
	WRAP_LAST = 60000,
	WRAP_PORTS = WRAP_LAST - WRAP_FIRST + 1,
	/* Below the second after which a SYN is sent again: a blackholed connect sends exactly one. */
	CONNECT_LIMIT_MS = 900,
	HOLD_LIMIT_S = 60,
	STORM_ALIVE = 64, /* children of storm at a time */
	DEPTH_MAX = 1000,
	PID_TRIES = 1000,
};

#define TITLE_VARIABLE "TRAFFIC_TITLE"

struct addr {
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	};
	socklen_t len;
};

struct call {
	int port;
	int error;
};

/* What the one subcommand of this process did. */
static struct outcome {
	long sent, calls, bytes;
	struct call *call;
	size_t logged, room;
	FILE *more; /* the words that the subcommand adds to the line */
	char *more_text;
	size_t more_bytes;
	int pid; /* to print, where it is not this process */
	bool reported;
	int status;
} done;

static char **own_argv;

static void __attribute__((noreturn, format(printf, 2, 3))) fail(int status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("traffic: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(status);
}

/* Return what a system call returned, unless it failed. */
static long must(long value, const char *what)
{
	if (value < 0)
		fail(EXIT_FAILURE, "%s: %s", what, strerror(errno));
	return value;
}

static void *must_have(void *memory)
{
	if (!memory)
		fail(EXIT_FAILURE, "out of memory");
	return memory;
}

static const char *error_name(int error)
{
	const char *name = error ? strerrorname_np(error) : "OK";

	return name ? name : "UNKNOWN";
}

/* Arguments */

static long number(const char *text, long least, long most)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || end == text || *end || value < least || value > most)
		fail(EXIT_USAGE, "%s is not a number from %ld to %ld", text, least, most);
	return value;
}

static long count_arg(int argc, char **argv, int at)
{
	return at < argc ? number(argv[at], 1, 100000000) : 1;
}

static void set_port(struct addr *addr, long port)
{
	if (addr->sa.sa_family == AF_INET)
		addr->in.sin_port = htons(port);
	else
		addr->in6.sin6_port = htons(port);
}

static struct addr address(const char *text, const char *port)
{
	struct addr addr = {0};
	char host[INET6_ADDRSTRLEN];
	const char *scope = strchr(text, '%');

	snprintf(host, sizeof host, "%.*s", scope ? (int)(scope - text) : (int)sizeof host, text);
	if (inet_pton(AF_INET, text, &addr.in.sin_addr) == 1) {
		addr.in.sin_family = AF_INET;
		addr.len = sizeof addr.in;
	} else if (inet_pton(AF_INET6, host, &addr.in6.sin6_addr) == 1) {
		addr.in6.sin6_family = AF_INET6;
		addr.len = sizeof addr.in6;
		if (scope && !(addr.in6.sin6_scope_id = if_nametoindex(scope + 1)))
			fail(EXIT_USAGE, "no interface %s", scope + 1);
	} else {
		fail(EXIT_USAGE, "%s is not an address", text);
	}
	set_port(&addr, number(port, 0, 65535));
	return addr;
}

static struct addr v4_address(const char *text, const char *port)
{
	struct addr addr = address(text, port);

	if (addr.sa.sa_family != AF_INET)
		fail(EXIT_USAGE, "%s is not an IPv4 address", text);
	return addr;
}

static struct addr mapped_address(const char *text, const char *port)
{
	char mapped[64];

	v4_address(text, port);
	snprintf(mapped, sizeof mapped, "::ffff:%s", text);
	return address(mapped, port);
}

static bool has_flag(int argc, char **argv, int at, const char *flag)
{
	if (at >= argc)
		return false;
	if (strcmp(argv[at], flag))
		fail(EXIT_USAGE, "%s takes %s, not %s", argv[0], flag, argv[at]);
	return true;
}

/* Sockets */

static void set_option(int fd, int level, int name, int value, const char *what)
{
	must(setsockopt(fd, level, name, &value, sizeof value), what);
}

static int open_socket(int family, int type)
{
	int fd = must(socket(family, type | SOCK_CLOEXEC, 0), "socket");
	struct timeval limit = {.tv_usec = CONNECT_LIMIT_MS * 1000};

	if (family == AF_INET6)
		set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0, "IPV6_V6ONLY");
	if ((type & ~SOCK_NONBLOCK) == SOCK_STREAM)
		must(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit), "SO_SNDTIMEO");
	return fd;
}

static int udp_socket(const struct addr *to)
{
	return open_socket(to->sa.sa_family, SOCK_DGRAM);
}

static int local_port(int fd)
{
	struct addr own = {.len = sizeof own.in6};

	must(getsockname(fd, &own.sa, &own.len), "getsockname");
	return ntohs(own.sa.sa_family == AF_INET ? own.in.sin_port : own.in6.sin6_port);
}

static void log_call(int fd, int error)
{
	if (done.logged == done.room) {
		done.room = done.room ? 2 * done.room : 64;
		done.call = must_have(realloc(done.call, done.room * sizeof *done.call));
	}
	done.call[done.logged++] = (struct call){.port = local_port(fd), .error = error};
	done.calls++;
}

/* Whether a connect that ended so was asked of the network, and not refused by this host. */
static bool on_the_wire(int error)
{
	return !error || error == EINPROGRESS || error == ECONNREFUSED || error == ECONNRESET ||
	       error == ETIMEDOUT;
}

static void log_connect(int fd, int error)
{
	log_call(fd, error);
	done.sent += on_the_wire(error);
}

static void tcp_connect(int fd, const struct addr *to)
{
	log_connect(fd, connect(fd, &to->sa, to->len) ? errno : 0);
}

static bool udp_connect(int fd, const struct addr *to)
{
	int error = connect(fd, &to->sa, to->len) ? errno : 0;

	log_call(fd, error);
	return !error;
}

/* Send one byte to an address, or to the socket's peer if none is given; return whether it was taken. */
static bool send_byte(int fd, const struct addr *to, int flags)
{
	int error;
	socklen_t len = sizeof error;
	bool taken;

	/* What the previous datagram met would fail this one: reading it clears it. */
	must(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len), "SO_ERROR");
	taken = sendto(fd, "x", 1, flags, to ? &to->sa : NULL, to ? to->len : 0) == 1;
	log_call(fd, taken ? 0 : errno);
	done.bytes += taken;
	return taken;
}

static void send_datagram(int fd, const struct addr *to)
{
	done.sent += send_byte(fd, to, 0);
}

/* Printing */

static void print_comm(void)
{
	char comm[16];

	must(prctl(PR_GET_NAME, comm), "PR_GET_NAME");
	printf(" comm=");
	for (const char *c = comm; *c; c++)
		printf(*c > ' ' && *c < 0x7f && *c != '\\' ? "%c" : "\\x%02x", (unsigned char)*c);
}

static void print_calls(void)
{
	printf(" sports=");
	for (size_t i = 0; i < done.logged; i++)
		printf("%s%d", i ? "," : "", done.call[i].port);
	printf(" errnos=");
	for (size_t i = 0; i < done.logged; i++)
		printf("%s%s", i ? "," : "", error_name(done.call[i].error));
}

/* Print the line, from the thread that it is to name. */
static void report(void)
{
	fclose(done.more);
	printf("pid=%d sent=%ld calls=%ld bytes=%ld tid=%d", done.pid ? done.pid : getpid(), done.sent,
	       done.calls, done.bytes, gettid());
	print_comm();
	if (done.logged)
		print_calls();
	puts(done.more_text);
	free(done.more_text);
	done.reported = true;
	if (fflush(stdout))
		fail(EXIT_FAILURE, "cannot write to stdout");
}

/* TCP subcommands */

static void do_tcp(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	int type = SOCK_STREAM | (strcmp(argv[0], "nonblock") ? 0 : SOCK_NONBLOCK);

	for (long left = count_arg(argc, argv, 3); left; left--) {
		int fd = open_socket(to.sa.sa_family, type);

		tcp_connect(fd, &to);
		close(fd);
	}
}

static void do_tcpaddrs(int argc, char **argv)
{
	for (int i = 2; i < argc; i++) {
		struct addr to = address(argv[i], argv[1]);
		int fd = open_socket(to.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK);

		tcp_connect(fd, &to);
		close(fd);
	}
}

struct connector {
	pthread_t thread;
	pthread_barrier_t *start;
	const struct addr *to;
	int fd, tid, error;
};

static void *connect_at_once(void *argument)
{
	struct connector *self = argument;

	self->tid = gettid();
	pthread_barrier_wait(self->start);
	self->error = connect(self->fd, &self->to->sa, self->to->len) ? errno : 0;
	return NULL;
}

static void start_thread(pthread_t *thread, void *(*body)(void *), void *argument)
{
	int error = pthread_create(thread, NULL, body, argument);

	if (error)
		fail(EXIT_FAILURE, "pthread_create: %s", strerror(error));
}

static void do_tcpthreads(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	long count = number(argv[3], 1, 500);
	int type = SOCK_STREAM | (has_flag(argc, argv, 4, "--nonblock") ? SOCK_NONBLOCK : 0);
	struct connector *all = must_have(calloc(count, sizeof *all));
	pthread_barrier_t start;

	pthread_barrier_init(&start, NULL, count);
	for (long i = 0; i < count; i++) {
		all[i] = (struct connector){.start = &start, .to = &to};
		all[i].fd = open_socket(to.sa.sa_family, type);
		start_thread(&all[i].thread, connect_at_once, &all[i]);
	}
	for (long i = 0; i < count; i++)
		pthread_join(all[i].thread, NULL);
	for (long i = 0; i < count; i++)
		log_connect(all[i].fd, all[i].error);
	for (long i = 0; i < count; i++)
		fprintf(done.more, "%s%d", i ? "," : " tids=", all[i].tid);
	free(all);
}

static void do_fastopen(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	int fd = open_socket(to.sa.sa_family, SOCK_STREAM);
	ssize_t taken;
	int error;

	if (has_flag(argc, argv, 3, "--nocookie"))
		set_option(fd, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1, "TCP_FASTOPEN_NO_COOKIE");
	taken = sendto(fd, "x", 1, MSG_FASTOPEN, &to.sa, to.len);
	error = taken < 0 ? errno : 0;
	if (error == EOPNOTSUPP)
		fail(EXIT_NOT_OFFERED, "net.ipv4.tcp_fastopen is off");
	log_connect(fd, error);
	done.bytes += taken > 0;
}

static void do_fastopenconnect(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	int fd = open_socket(to.sa.sa_family, SOCK_STREAM), value = 1;
	ssize_t taken;

	if (setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &value, sizeof value))
		fail(EXIT_NOT_OFFERED, "TCP_FASTOPEN_CONNECT: %s", strerror(errno));
	if (has_flag(argc, argv, 3, "--nocookie"))
		set_option(fd, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1, "TCP_FASTOPEN_NO_COOKIE");
	tcp_connect(fd, &to);
	if (done.call[0].error)
		return;
	/* Where connect had a cookie, or needs none, the SYN leaves only now. */
	taken = send(fd, "x", 1, 0);
	done.sent = taken > 0 || on_the_wire(errno);
	log_call(fd, taken < 0 ? errno : 0);
	done.bytes += taken > 0;
}

static void do_mappedtcp(int argc, char **argv)
{
	struct addr to = mapped_address(argv[1], argv[2]);

	(void)argc;
	tcp_connect(open_socket(AF_INET6, SOCK_STREAM), &to);
}

static void do_afinettcp(int argc, char **argv)
{
	struct addr to = v4_address(argv[1], argv[2]);

	/* A length that fits IPv6 takes the address past the first check of the kernel. */
	if (has_flag(argc, argv, 3, "--long"))
		to.len = sizeof to.in6;
	tcp_connect(open_socket(AF_INET6, SOCK_STREAM), &to);
}

/* UDP subcommands */

static void do_udp(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	int fd = udp_socket(&to);

	for (long left = count_arg(argc, argv, 3); left; left--)
		send_datagram(fd, &to);
}

static void do_udpconn(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	int fd = udp_socket(&to);

	if (udp_connect(fd, &to))
		for (long left = count_arg(argc, argv, 3); left; left--)
			send_datagram(fd, NULL);
}

static void do_udpconnonly(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);

	(void)argc;
	udp_connect(udp_socket(&to), &to);
}

static void do_redirect(int argc, char **argv)
{
	struct addr peer = address(argv[1], argv[2]), other = address(argv[3], argv[4]);
	int fd = udp_socket(&peer);

	(void)argc;
	if (!udp_connect(fd, &peer))
		return;
	send_datagram(fd, &other);
	send_datagram(fd, NULL);
}

static void do_sendmmsg(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	long left = count_arg(argc, argv, 3);
	int fd = udp_socket(&to), sent;
	struct iovec byte = {.iov_base = "x", .iov_len = 1};
	static struct mmsghdr message[MMSG_MAX];

	for (int i = 0; i < MMSG_MAX; i++)
		message[i].msg_hdr = (struct msghdr){
			.msg_name = &to.sa, .msg_namelen = to.len, .msg_iov = &byte, .msg_iovlen = 1};
	for (; left; left -= sent) {
		sent = sendmmsg(fd, message, left < MMSG_MAX ? left : MMSG_MAX, 0);
		log_call(fd, sent < 0 ? errno : 0);
		if (sent < 0)
			return;
		done.sent += sent;
		done.bytes += sent;
	}
}

static void do_gso(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	long left = count_arg(argc, argv, 3), segments;
	int fd = udp_socket(&to), size = GSO_SEGMENT_BYTES;
	static const char payload[GSO_SEGMENTS * GSO_SEGMENT_BYTES];

	if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size))
		fail(EXIT_NOT_OFFERED, "UDP_SEGMENT: %s", strerror(errno));
	for (; left; left -= segments) {
		ssize_t taken;

		segments = left < GSO_SEGMENTS ? left : GSO_SEGMENTS;
		taken = sendto(fd, payload, segments * GSO_SEGMENT_BYTES, 0, &to.sa, to.len);
		log_call(fd, taken < 0 ? errno : 0);
		if (taken > 0) {
			done.sent += segments;
			done.bytes += taken;
		}
	}
}

/* N calls that make one datagram of N bytes. */
static void do_cork(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	int fd = udp_socket(&to);

	for (long left = count_arg(argc, argv, 3); left; left--) {
		bool taken = send_byte(fd, &to, left > 1 ? MSG_MORE : 0);

		if (left == 1)
			done.sent += taken;
	}
}

static void do_mapped(int argc, char **argv)
{
	struct addr to = mapped_address(argv[1], argv[2]);

	(void)argc;
	send_datagram(udp_socket(&to), &to);
}

static void do_mappedconn(int argc, char **argv)
{
	struct addr to = mapped_address(argv[1], argv[2]);
	int fd = udp_socket(&to);

	(void)argc;
	if (udp_connect(fd, &to))
		send_datagram(fd, NULL);
}

static void do_afinet6sock(int argc, char **argv)
{
	struct addr to = v4_address(argv[1], argv[2]);

	(void)argc;
	send_datagram(open_socket(AF_INET6, SOCK_DGRAM), &to);
}

static void do_afunspec(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	int fd = udp_socket(&to);

	(void)argc;
	to.sa.sa_family = AF_UNSPEC;
	send_datagram(fd, &to);
}

static void do_reuseport(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]), own = {.len = to.len};
	long count = count_arg(argc, argv, 3);
	int fd[2];

	own.sa.sa_family = to.sa.sa_family;
	for (int i = 0; i < 2; i++) {
		fd[i] = udp_socket(&to);
		set_option(fd[i], SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT");
		must(bind(fd[i], &own.sa, own.len), "bind");
		set_port(&own, local_port(fd[i]));
	}
	for (int i = 0; i < 2; i++)
		for (long left = count; left; left--)
			send_datagram(fd[i], &to);
}

static void do_udpports(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	long first = number(argv[2], 0, 65535), last = number(argv[3], first, 65535);
	int fd = udp_socket(&to);

	(void)argc;
	for (long port = first; port <= last; port++) {
		set_port(&to, port);
		send_datagram(fd, &to);
	}
}

static void do_udpaddrs(int argc, char **argv)
{
	int v4 = -1, v6 = -1;

	for (int i = 2; i < argc; i++) {
		struct addr to = address(argv[i], argv[1]);
		int *fd = to.sa.sa_family == AF_INET ? &v4 : &v6;

		if (*fd < 0)
			*fd = udp_socket(&to);
		send_datagram(*fd, &to);
	}
}

/* io_uring */

static void *map_ring(int ring, size_t size, off_t offset)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, offset);

	if (memory == MAP_FAILED)
		fail(EXIT_NOT_OFFERED, "io_uring: mmap: %s", strerror(errno));
	return memory;
}

/* A ring for one operation at a time. */
struct uring {
	struct pollfd completion;
	struct io_uring_params params;
	struct io_uring_sqe *sqe;
	char *rings;
	uint32_t submitted;
};

static struct uring open_uring(void)
{
	struct uring ring = {.completion = {.events = POLLIN}};
	size_t sq_size, cq_size;
	int fd = syscall(__NR_io_uring_setup, 1, &ring.params);

	if (fd < 0)
		fail(EXIT_NOT_OFFERED, "io_uring_setup: %s", strerror(errno));
	if (!(ring.params.features & IORING_FEAT_SINGLE_MMAP))
		fail(EXIT_NOT_OFFERED, "io_uring is too old to connect");
	ring.completion.fd = fd;
	sq_size = ring.params.sq_off.array + ring.params.sq_entries * sizeof(uint32_t);
	cq_size = ring.params.cq_off.cqes + ring.params.cq_entries * sizeof(struct io_uring_cqe);
	ring.rings = map_ring(fd, sq_size > cq_size ? sq_size : cq_size, IORING_OFF_SQ_RING);
	ring.sqe = map_ring(fd, ring.params.sq_entries * sizeof *ring.sqe, IORING_OFF_SQES);
	*(uint32_t *)(ring.rings + ring.params.sq_off.array) = 0;
	return ring;
}

/* What the operation in `sqe` returned, or -EINPROGRESS for one that does not end. */
static int run_uring(struct uring *ring)
{
	struct io_uring_cqe *cqe = (void *)(ring->rings + ring->params.cq_off.cqes);
	uint32_t at = ring->submitted & (ring->params.cq_entries - 1);
	uint32_t *head = (void *)(ring->rings + ring->params.cq_off.head);

	__atomic_store_n((uint32_t *)(ring->rings + ring->params.sq_off.tail), ++ring->submitted, __ATOMIC_RELEASE);
	if (syscall(__NR_io_uring_enter, ring->completion.fd, 1, 0, 0, NULL, 0) != 1)
		fail(EXIT_NOT_OFFERED, "io_uring_enter: %s", strerror(errno));
	/* A blackholed connect does not complete: it is left in progress, and ends with the process. */
	while (poll(&ring->completion, 1, CONNECT_LIMIT_MS) < 0)
		if (errno != EINTR)
			must(-1, "poll");
	if (__atomic_load_n((uint32_t *)(ring->rings + ring->params.cq_off.tail), __ATOMIC_ACQUIRE) != ring->submitted)
		return -EINPROGRESS;
	__atomic_store_n(head, ring->submitted, __ATOMIC_RELEASE);
	return cqe[at].res;
}

static void do_iouring(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	bool async = has_flag(argc, argv, 3, "--async");
	int fd = open_socket(to.sa.sa_family, SOCK_STREAM);
	struct uring ring = open_uring();

	ring.sqe->opcode = IORING_OP_CONNECT;
	ring.sqe->flags = async ? IOSQE_ASYNC : 0;
	ring.sqe->fd = fd;
	ring.sqe->addr = (uintptr_t)&to.sa;
	ring.sqe->off = to.len;
	log_connect(fd, -run_uring(&ring));
}

static void do_iouringsend(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	struct iovec byte = {.iov_base = "x", .iov_len = 1};
	struct msghdr message = {.msg_name = &to.sa, .msg_namelen = to.len, .msg_iov = &byte, .msg_iovlen = 1};
	int fd = udp_socket(&to);
	struct uring ring = open_uring();

	for (long left = count_arg(argc, argv, 3); left; left--) {
		int taken;

		ring.sqe->opcode = IORING_OP_SENDMSG;
		ring.sqe->fd = fd;
		ring.sqe->addr = (uintptr_t)&message;
		ring.sqe->len = 1;
		taken = run_uring(&ring);
		log_call(fd, taken < 0 ? -taken : 0);
		done.sent += taken == 1;
		done.bytes += taken == 1;
	}
}

/* Many calls, and timing */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * UINT64_C(1000000000) + now.tv_nsec;
}

/* What many calls came to, in place of a list of them all. */
static void print_failures(long failed, int first_error)
{
	fprintf(done.more, " failed=%ld errno=%s", failed, error_name(first_error));
}

static void do_udpburst(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	long port = number(argv[2], 0, 65535), count = count_arg(argc, argv, 3), failed = 0;
	long ports = argc > 4 ? number(argv[4], 1, 65536 - port) : 1;
	int fd = udp_socket(&to), first_error = 0;
	uint64_t start = now_ns(), elapsed;

	for (long i = 0; i < count; i++) {
		set_port(&to, port + i % ports);
		if (sendto(fd, "x", 1, 0, &to.sa, to.len) != 1 && !failed++)
			first_error = errno;
	}
	elapsed = now_ns() - start;
	done.calls = count;
	done.sent = done.bytes = count - failed;
	print_failures(failed, first_error);
	fprintf(done.more, " sport=%d elapsed=%" PRIu64, local_port(fd), elapsed);
}

static int ascending(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

/* Memory that forked processes have in common. */
static void *shared_memory(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return must_have(memory == MAP_FAILED ? NULL : memory);
}

/* Times one datagram of a process that has sent none but to the next port. */
static bool send_from_child(int fd, struct addr to, long port, uint64_t *spent)
{
	pid_t child = must(fork(), "fork");
	uint64_t start;
	int status;

	if (!child) {
		set_port(&to, port + 1);
		sendto(fd, "x", 1, 0, &to.sa, to.len);
		set_port(&to, port);
		start = now_ns();
		status = sendto(fd, "x", 1, 0, &to.sa, to.len) != 1;
		*spent = now_ns() - start;
		_exit(status);
	}
	must(waitpid(child, &status, 0), "waitpid");
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

/* The last byte of an IPv4 address. */
static void set_last_byte(struct addr *to, long byte)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&to->sa;

	in->sin_addr.s_addr = htonl((ntohl(in->sin_addr.s_addr) & ~255u) | (uint32_t)byte);
}

/* bench...: one call to warm up, then N that are timed one by one; benchaddrs warms up each of its 256 addresses. */
static void do_bench(int argc, char **argv)
{
	bool wrap = !strcmp(argv[0], "benchports"), forks = !strcmp(argv[0], "benchforks");
	bool spread = !strcmp(argv[0], "benchaddrs");
	bool tcp = !strcmp(argv[1], "tcp");
	struct addr to = address(argv[2], argv[3]);
	long first = number(argv[3], wrap ? WRAP_FIRST : 0, wrap ? WRAP_LAST : 65535);
	long count = count_arg(argc, argv, 4), failed = 0;
	uint64_t *spent = shared_memory((count + 1) * sizeof *spent), sum = 0, clock_only = UINT64_MAX;
	int fd = -1, first_error = 0, sport;

	if (!tcp && strcmp(argv[1], "udp"))
		fail(EXIT_USAGE, "%s takes udp or tcp, not %s", argv[0], argv[1]);
	if (tcp && (wrap || forks || spread))
		fail(EXIT_USAGE, "%s takes udp only", argv[0]);
	memset(spent, 0xff, (count + 1) * sizeof *spent); /* No page of it is new while the calls are timed. */
	for (int i = 0; i < 16; i++) {
		uint64_t start = now_ns(), ns = now_ns() - start;

		clock_only = ns < clock_only ? ns : clock_only;
	}
	if (!tcp)
		fd = udp_socket(&to);
	for (long i = spread ? -256 : -1; i < count; i++) {
		uint64_t start, end;
		bool ok;

		if (spread)
			set_last_byte(&to, i & 255);
		if (wrap)
			set_port(&to, WRAP_FIRST + (first - WRAP_FIRST + i + 1) % WRAP_PORTS);
		if (forks) {
			ok = send_from_child(fd, to, first, &spent[count]);
			start = 0, end = spent[count];
		} else if (tcp) {
			int error;

			fd = open_socket(to.sa.sa_family, SOCK_STREAM);
			start = now_ns();
			error = connect(fd, &to.sa, to.len) ? errno : 0;
			end = now_ns();
			close(fd);
			errno = error;
			ok = on_the_wire(error);
		} else {
			start = now_ns();
			ok = sendto(fd, "x", 1, 0, &to.sa, to.len) == 1;
			end = now_ns();
		}
		if (!ok && !failed++)
			first_error = errno;
		if (i >= 0)
			spent[i] = end - start;
	}
	sport = tcp ? 0 : local_port(fd);
	for (long i = 0; i < count; i++)
		sum += spent[i];
	qsort(spent, count, sizeof *spent, ascending);
	done.calls = count + (spread ? 256 : 1);
	done.sent = done.calls - failed;
	done.bytes = tcp ? 0 : done.sent;
	print_failures(failed, first_error);
	fprintf(done.more, " sport=%d n=%ld min=%" PRIu64 " median=%" PRIu64 " sum=%" PRIu64,
		sport, count, spent[0], spent[count / 2], sum);
	fprintf(done.more, " clock=%" PRIu64, clock_only);
	/* Times of failed calls are not the ones asked for. */
	if (failed) {
		fprintf(stderr, "traffic: %ld of %ld calls failed, the first with %s\n", failed, count + 1,
			error_name(first_error));
		done.status = EXIT_FAILURE;
	}
}

/* Moves bytes from one socket to another of this process, as much at a time as they take; whether all arrived. */
static bool move_bytes(int from, int to, const char *bytes, char *room, size_t size, int type)
{
	size_t sent = 0, got = 0;

	while (got < size) {
		ssize_t n = sent < size ? send(from, bytes, size - sent, MSG_DONTWAIT) : 0;

		if (n < 0 && errno != EAGAIN)
			return false;
		sent += n > 0 ? n : 0;
		n = recv(to, room, size, type == SOCK_STREAM ? MSG_DONTWAIT : 0);
		if (n < 0 && errno != EAGAIN)
			return false;
		got += n > 0 ? n : 0;
	}
	return true;
}

/* benchmove: what bytes take from a server at ADDR and PORT to its client, both here; once to warm up, then N times. */
static void do_benchmove(int argc, char **argv)
{
	int type = !strcmp(argv[1], "tcp") ? SOCK_STREAM : SOCK_DGRAM;
	struct addr at = address(argv[2], argv[3]), client = at;
	size_t size = number(argv[4], 1, type == SOCK_STREAM ? 1 << 24 : 65000);
	long count = count_arg(argc, argv, 5);
	uint64_t *spent = must_have(calloc(count + 1, sizeof *spent)), clock_only = UINT64_MAX;
	char *bytes = must_have(calloc(2, size));
	int server = open_socket(at.sa.sa_family, type), own = open_socket(at.sa.sa_family, type), from = server;

	must(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)), "SO_REUSEADDR");
	must(bind(server, &at.sa, at.len), "bind");
	if (type == SOCK_STREAM)
		must(listen(server, 1), "listen");
	must(connect(own, &at.sa, at.len), "connect");
	if (type == SOCK_STREAM) {
		from = must(accept(server, NULL, NULL), "accept");
		must(setsockopt(from, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)), "TCP_NODELAY");
	} else {
		client.len = sizeof client;
		must(getsockname(own, &client.sa, &client.len), "getsockname");
		must(connect(server, &client.sa, client.len), "connect");
	}
	memset(bytes, 'x', 2 * size);
	memset(spent, 0xff, (count + 1) * sizeof *spent);
	for (int i = 0; i < 16; i++) {
		uint64_t start = now_ns(), ns = now_ns() - start;

		clock_only = ns < clock_only ? ns : clock_only;
	}
	for (long i = -1; i < count; i++) {
		uint64_t start = now_ns();

		if (!move_bytes(from, own, bytes, bytes + size, size, type))
			fail(EXIT_FAILURE, "not moved: %s", error_name(errno));
		if (i >= 0)
			spent[i] = now_ns() - start;
	}
	qsort(spent, count, sizeof *spent, ascending);
	done.calls = done.sent = count + 1;
	done.bytes = done.sent * size;
	fprintf(done.more, " n=%ld min=%" PRIu64 " median=%" PRIu64 " clock=%" PRIu64, count, spent[0],
		spent[count / 2], clock_only);
}

/* Processes that other programs are started from, or that change what they look like */

static void __attribute__((noreturn)) held_too_long(int number)
{
	(void)number;
	_exit(EXIT_FAILURE);
}

static void limit_time(void)
{
	/* A handler, as the first process of a PID namespace takes no default action. */
	signal(SIGALRM, held_too_long);
	alarm(HOLD_LIMIT_S);
}

static void hold(int fd, const struct addr *to)
{
	char text[4096];
	ssize_t got;

	limit_time();
	report();
	while ((got = must(read(STDIN_FILENO, text, sizeof text), "stdin")))
		for (ssize_t i = 0; i < got; i++)
			if (text[i] == '\n') {
				send_datagram(fd, to);
				printf("sent=%ld\n", done.sent);
				if (fflush(stdout))
					fail(EXIT_FAILURE, "cannot write to stdout");
			}
}

static void send_and_hold(const struct addr *to)
{
	int fd = udp_socket(to);

	send_datagram(fd, to);
	hold(fd, to);
}

static void send_once(const struct addr *to)
{
	int fd = udp_socket(to);

	send_datagram(fd, to);
	close(fd);
}

static const char *own_program(void)
{
	static char path[4096];

	path[must(readlink("/proc/self/exe", path, sizeof path - 1), "/proc/self/exe")] = '\0';
	return path;
}

/* Wait for a process, and return whether it ended well. */
static bool ended_well(pid_t pid)
{
	int status;

	must(waitpid(pid, &status, 0), "waitpid");
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

static void copy_file(const char *from, int to)
{
	int fd = must(open(from, O_RDONLY | O_CLOEXEC), from);

	while (must(sendfile(to, fd, NULL, 1 << 30), "sendfile"))
		;
	close(fd);
}

static void do_hold(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);

	(void)argc;
	send_and_hold(&to);
}

/* Reap one child of storm, if one has ended or the caller waits for one; return whether there was one. */
static bool storm_reap(int flags, long *failed)
{
	int status;
	pid_t pid = must(waitpid(-1, &status, flags), "waitpid");

	if (pid && !(WIFEXITED(status) && !WEXITSTATUS(status)))
		++*failed;
	return pid;
}

static void do_storm(int argc, char **argv)
{
	bool tcp = !strcmp(argv[2], "tcp");
	long count = number(argv[5], 1, 1000000), rate = number(argv[6], 0, 1000000), failed = 0, alive = 0;
	pid_t *pids = must_have(calloc(count, sizeof *pids));
	uint64_t start = now_ns();

	(void)argc;
	v4_address(argv[3], argv[4]);
	if (!tcp && strcmp(argv[2], "udp"))
		fail(EXIT_USAGE, "%s takes udp or tcp, not %s", argv[0], argv[2]);
	for (long i = 0; i < count; i++) {
		char name[32];
		char *child[] = {argv[1], argv[2], argv[3], argv[4], name, NULL};

		snprintf(name, sizeof name, "n=%ld", i);
		if (rate) {
			uint64_t at = start + i * UINT64_C(1000000000) / rate;
			struct timespec when = {at / 1000000000, at % 1000000000};

			while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR)
				;
		}
		while (alive && storm_reap(alive < STORM_ALIVE ? WNOHANG : 0, &failed))
			alive--;
		if (posix_spawn(&pids[i], argv[1], NULL, NULL, child, environ)) {
			pids[i] = 0;
			failed++;
		} else {
			alive++;
		}
	}
	for (; alive; alive--)
		storm_reap(0, &failed);
	done.calls = count;
	done.sent = count - failed;
	done.bytes = tcp ? 0 : done.sent;
	fprintf(done.more, " failed=%ld\n", failed);
	for (long i = 0; i < count; i++)
		fprintf(done.more, "%s%d", i ? "," : "pids=", pids[i]);
	free(pids);
}

static void do_execafter(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);

	(void)argc;
	send_once(&to);
	report();
	execv(argv[3], argv + 3);
	must(-1, argv[3]);
}

static void do_memfdexec(int argc, char **argv)
{
	int fd = memfd_create("payload", MFD_CLOEXEC);

	(void)argc;
	if (fd < 0)
		fail(EXIT_NOT_OFFERED, "memfd_create: %s", strerror(errno));
	copy_file(argv[1], fd);
	report();
	fexecve(fd, argv + 2, environ);
	must(-1, "fexecve");
}

/* Executes a copy of this program, which deletes itself. */
static void do_deleted(int argc, char **argv)
{
	char directory[] = "/tmp/.mount_XXXXXX", path[sizeof directory + sizeof "/app"];
	char *copy[] = {path, "holdlate", argv[1], argv[2], path, NULL};
	int fd, error;

	(void)argc;
	address(argv[1], argv[2]);
	must_have(mkdtemp(directory));
	snprintf(path, sizeof path, "%s/app", directory);
	/* Open for writing, it could not be executed. */
	fd = must(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0700), path);
	copy_file("/proc/self/exe", fd);
	must(close(fd), path);
	execv(path, copy);
	error = errno;
	unlink(path);
	rmdir(directory);
	fail(EXIT_FAILURE, "%s: %s", path, strerror(error));
}

static void do_holdlate(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	char *directory = must_have(strdup(argv[3])), *slash = strrchr(directory, '/');

	(void)argc;
	if (!slash)
		fail(EXIT_USAGE, "%s is in no directory", argv[3]);
	*slash = '\0';
	must(unlink(argv[3]), argv[3]);
	must(rmdir(directory), directory);
	free(directory);
	fprintf(done.more, " path=%s", argv[3]);
	send_and_hold(&to);
}

/* Executes this program anew, with arguments that a title can be longer than. */
static void do_proctitle(int argc, char **argv)
{
	const char *program = own_program();
	char *again[] = {"traffic", "titled", argv[1], argv[2], NULL};

	(void)argc;
	address(argv[1], argv[2]);
	must(setenv(TITLE_VARIABLE, argv[3], true), "setenv");
	execv(program, again);
	must(-1, program);
}

/* Return where the strings end that follow each other from here. */
static char *strings_end(char **strings, char *from)
{
	for (; *strings == from; strings++)
		from += strlen(from) + 1;
	return from;
}

/* As setproctitle does it: over the arguments and, where they are too short, the environment after them. */
static void do_titled(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	const char *given = getenv(TITLE_VARIABLE);
	char *area = own_argv[0], *arguments_end = strings_end(own_argv, area);
	char *end = strings_end(environ, arguments_end), *title;
	size_t length;

	(void)argc;
	if (!given)
		fail(EXIT_USAGE, "no " TITLE_VARIABLE);
	title = must_have(strdup(given));
	length = strnlen(title, end - area - 1);
	clearenv();
	memset(area, 0, end - area);
	memcpy(area, title, length);
	free(title);
	fprintf(done.more, " area=%td title=%zu", arguments_end - area, length);
	send_and_hold(&to);
}

/* PR_SET_MM_MAP, as the ways to set one field need CAP_SYS_RESOURCE. It takes all the fields. */
static void move_arguments(char *start, char *end)
{
	/* fields 26 to 28 and 45 to 51 of proc(5) */
	struct prctl_mm_map map = {.exe_fd = -1, .brk = (uintptr_t)sbrk(0)};
	FILE *stat = must_have(fopen("/proc/self/stat", "re"));
	int got = fscanf(stat,
			 "%*[^)])%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s"
			 "%llu%llu%llu%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%llu%llu%llu%*s%*s%llu%llu",
			 &map.start_code, &map.end_code, &map.start_stack, &map.start_data, &map.end_data,
			 &map.start_brk, &map.env_start, &map.env_end);

	fclose(stat);
	map.arg_start = (uintptr_t)start;
	map.arg_end = (uintptr_t)end;
	if (got != 8)
		fail(EXIT_FAILURE, "cannot read /proc/self/stat");
	if (prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0))
		fail(EXIT_NOT_OFFERED, "PR_SET_MM_MAP: %s", strerror(errno));
}

/*
 * The last NUL of the arguments is on a page that is not there until something waits for it. The others cannot
 * be: /proc/PID/cmdline shows anonymous memory only, takes nothing from userfaultfd, and a new page is all NULs.
 */
static void do_argsout(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	size_t page = sysconf(_SC_PAGESIZE), name = strlen(argv[0]) + 1, bytes = name + strlen(argv[3]);
	size_t there = (bytes + page - 1) / page * page;
	char *area = mmap(NULL, there + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *absent, *start;
	unsigned char resident;
	int fd = udp_socket(&to);

	(void)argc;
	absent = (char *)must_have(area == MAP_FAILED ? NULL : area) + there;
	start = absent - bytes;
	madvise(area, there + page, MADV_NOHUGEPAGE); /* Some kernels have none. */
	memcpy(start, argv[0], name);
	memcpy(start + name, argv[3], bytes - name);
	move_arguments(start, absent + 1);
	send_datagram(fd, &to);
	must(mincore(absent, page, &resident), "mincore");
	fprintf(done.more, " resident=%d", resident & 1);
	hold(fd, &to);
}

/* Set the name of this thread to bytes given in hex. */
static void set_comm_hex(const char *hex)
{
	char comm[16] = "";
	size_t digits = strlen(hex);

	if (digits % 2 || digits / 2 >= sizeof comm || strspn(hex, "0123456789abcdefABCDEF") != digits)
		fail(EXIT_USAGE, "%s is not the hex of at most %zu bytes", hex, sizeof comm - 1);
	for (size_t i = 0; i < digits / 2; i++) {
		unsigned int byte;

		sscanf(hex + 2 * i, "%2x", &byte);
		comm[i] = byte;
	}
	must(prctl(PR_SET_NAME, comm), "PR_SET_NAME");
}

static void do_renamed(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	long port = number(argv[2], 0, 65535), count = count_arg(argc, argv, 4);
	int fd = udp_socket(&to);

	number(argc > 4 ? argv[4] : "1", 1, 65536 - port);
	set_comm_hex(argv[3]);
	for (long i = 0; i < count; i++) {
		set_port(&to, port + i);
		send_datagram(fd, &to);
	}
}

struct named_sender {
	struct addr to;
	const char *hex;
};

static void *send_named(void *argument)
{
	const struct named_sender *self = argument;

	set_comm_hex(self->hex);
	send_once(&self->to);
	report();
	return NULL;
}

static void do_renamedthread(int argc, char **argv)
{
	struct named_sender sender = {.to = address(argv[1], argv[2]), .hex = argv[3]};
	pthread_t thread;

	(void)argc;
	start_thread(&thread, send_named, &sender);
	pthread_join(thread, NULL);
}

static char leader_state(void)
{
	char path[64], text[512], *state;
	int fd;
	ssize_t got;

	snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
	fd = must(open(path, O_RDONLY | O_CLOEXEC), path);
	got = must(read(fd, text, sizeof text - 1), path);
	close(fd);
	text[got] = '\0';
	state = strrchr(text, ')');
	return state && state[1] ? state[2] : '?';
}

static void *send_without_leader(void *argument)
{
	char state;

	while ((state = leader_state()) != 'Z')
		sched_yield();
	send_once(argument);
	fprintf(done.more, " leader=%c", state);
	report();
	exit(EXIT_SUCCESS);
}

static void do_leadergone(int argc, char **argv)
{
	static struct addr to; /* The stack goes with its thread. */
	pthread_t thread;

	(void)argc;
	to = address(argv[1], argv[2]);
	limit_time();
	start_thread(&thread, send_without_leader, &to);
	syscall(SYS_exit, 0); /* this thread only */
}

static void do_setuid(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	long port = number(argv[2], 0, 65534), uid = number(argv[3], 0, INT32_MAX);
	int fd = udp_socket(&to);

	(void)argc;
	send_datagram(fd, &to);
	must(setresgid(uid, uid, uid), "setresgid");
	must(setresuid(uid, uid, uid), "setresuid");
	set_port(&to, port + 1);
	send_datagram(fd, &to);
	fprintf(done.more, " uid=%d gid=%d", getuid(), getgid());
}

static void do_cloneback(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	long wanted = number(argv[3], 2, 1 << 22);
	int last = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);

	(void)argc;
	if (last < 0)
		fail(EXIT_NOT_OFFERED, "ns_last_pid: %s", strerror(errno));
	for (int left = PID_TRIES; left; left--) {
		pid_t pid;

		if (lseek(last, 0, SEEK_SET) || dprintf(last, "%ld", wanted - 1) < 0)
			fail(EXIT_NOT_OFFERED, "ns_last_pid: %s", strerror(errno));
		pid = must(fork(), "fork");
		if (!pid) {
			if (getpid() == wanted)
				send_and_hold(&to);
			_exit(EXIT_SUCCESS);
		}
		if (!ended_well(pid))
			fail(EXIT_FAILURE, "the child failed");
		if (pid == wanted) {
			done.reported = true;
			return;
		}
	}
	fail(EXIT_NOT_OFFERED, "no process got PID %ld", wanted);
}

static void do_inns(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	long count = count_arg(argc, argv, 3);
	struct outcome *inside = shared_memory(sizeof *inside);

	if (unshare(CLONE_NEWPID))
		fail(EXIT_NOT_OFFERED, "CLONE_NEWPID: %s", strerror(errno));
	done.pid = must(fork(), "fork");
	if (!done.pid) {
		int fd = udp_socket(&to);

		while (count--)
			send_datagram(fd, &to);
		*inside = done;
		_exit(getpid() == 1 ? EXIT_SUCCESS : EXIT_FAILURE);
	}
	if (!ended_well(done.pid))
		fail(EXIT_FAILURE, "the child failed");
	done.sent = inside->sent;
	done.calls = inside->calls;
	done.bytes = inside->bytes;
}

static void do_forkdeep(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	int depth = number(argv[3], 1, DEPTH_MAX);
	struct chain {
		struct outcome deepest;
		pid_t pid[DEPTH_MAX + 1];
	} *chain = shared_memory(sizeof *chain);
	pid_t child;

	(void)argc;
	for (int level = 0; level <= depth; level++) {
		char comm[16];

		snprintf(comm, sizeof comm, "level%d", level);
		must(prctl(PR_SET_NAME, comm), "PR_SET_NAME");
		chain->pid[level] = getpid();
		child = level < depth ? must(fork(), "fork") : 0;
		if (child) {
			if (!ended_well(child))
				fail(EXIT_FAILURE, "a child failed");
			if (level)
				_exit(EXIT_SUCCESS);
			break;
		}
		if (level == depth) {
			send_once(&to);
			chain->deepest = done;
			_exit(EXIT_SUCCESS);
		}
	}
	done.sent = chain->deepest.sent;
	done.calls = chain->deepest.calls;
	done.bytes = chain->deepest.bytes;
	for (int level = 0; level <= depth; level++)
		fprintf(done.more, "%s%d", level ? "," : " pids=", chain->pid[level]);
}

#include "protocols.h"

/* Command line */

static const struct command {
	const char *name;
	void (*run)(int argc, char **argv);
	int least, most; /* arguments after the name */
	const char *arguments;
} commands[] = {
	{"tcp", do_tcp, 2, 3, "ADDR PORT [N]"},
	{"nonblock", do_tcp, 2, 3, "ADDR PORT [N]"},
	{"tcpthreads", do_tcpthreads, 3, 4, "ADDR PORT N [--nonblock]"},
	{"tcpaddrs", do_tcpaddrs, 2, 10000, "PORT ADDR..."},
	{"fastopen", do_fastopen, 2, 3, "ADDR PORT [--nocookie]"},
	{"fastopenconnect", do_fastopenconnect, 2, 3, "ADDR PORT [--nocookie]"},
	{"mappedtcp", do_mappedtcp, 2, 2, "V4ADDR PORT"},
	{"afinettcp", do_afinettcp, 2, 3, "V4ADDR PORT [--long]"},
	{"iouring", do_iouring, 2, 3, "ADDR PORT [--async]"},
	{"udp", do_udp, 2, 3, "ADDR PORT [N]"},
	{"udpconn", do_udpconn, 2, 3, "ADDR PORT [N]"},
	{"udpconnonly", do_udpconnonly, 2, 2, "ADDR PORT"},
	{"redirect", do_redirect, 4, 4, "ADDR PORT OTHERADDR OTHERPORT"},
	{"sendmmsg", do_sendmmsg, 3, 3, "ADDR PORT N"},
	{"gso", do_gso, 3, 3, "ADDR PORT N"},
	{"cork", do_cork, 3, 3, "ADDR PORT N"},
	{"mapped", do_mapped, 2, 2, "V4ADDR PORT"},
	{"mappedconn", do_mappedconn, 2, 2, "V4ADDR PORT"},
	{"afinet6sock", do_afinet6sock, 2, 2, "V4ADDR PORT"},
	{"afunspec", do_afunspec, 2, 2, "ADDR PORT"},
	{"reuseport", do_reuseport, 3, 3, "ADDR PORT N"},
	{"udpports", do_udpports, 3, 3, "ADDR FIRST LAST"},
	{"udpaddrs", do_udpaddrs, 2, 10000, "PORT ADDR..."},
	{"udpburst", do_udpburst, 3, 4, "ADDR PORT N [PORTS]"},
	{"storm", do_storm, 6, 6, "PROGRAM udp|tcp V4ADDR PORT N RATE"},
	{"execafter", do_execafter, 3, 10000, "ADDR PORT PROGRAM [ARG...]"},
	{"memfdexec", do_memfdexec, 2, 10000, "PROGRAM ARG0 [ARG...]"},
	{"hold", do_hold, 2, 2, "ADDR PORT"},
	{"deleted", do_deleted, 2, 2, "ADDR PORT"},
	{"holdlate", do_holdlate, 3, 3, "ADDR PORT PATH"},
	{"proctitle", do_proctitle, 3, 3, "ADDR PORT TEXT"},
	{"titled", do_titled, 2, 2, "ADDR PORT"},
	{"argsout", do_argsout, 3, 3, "ADDR PORT TEXT"},
	{"renamed", do_renamed, 3, 4, "ADDR PORT NAMEHEX [N]"},
	{"renamedthread", do_renamedthread, 3, 3, "ADDR PORT NAMEHEX"},
	{"leadergone", do_leadergone, 2, 2, "ADDR PORT"},
	{"setuid", do_setuid, 3, 3, "ADDR PORT UID"},
	{"cloneback", do_cloneback, 3, 3, "ADDR PORT PID"},
	{"inns", do_inns, 2, 3, "ADDR PORT [N]"},
	{"forkdeep", do_forkdeep, 3, 3, "ADDR PORT DEPTH"},
	{"iouringsend", do_iouringsend, 2, 3, "ADDR PORT [N]"},
	{"ping", do_ping, 1, 2, "ADDR [N]"},
	{"pingconn", do_ping, 1, 2, "ADDR [N]"},
	{"raw", do_raw, 2, 3, "ADDR PROTOCOL [N]"},
	{"written", do_written, 3, 4, "ADDR HEADERADDR PORT [N]"},
	{"udplite", do_udplite, 2, 3, "ADDR PORT [N]"},
	{"sctp", do_sctp, 2, 2, "ADDR PORT"},
	{"sctpto", do_sctp, 2, 2, "ADDR PORT"},
	{"mptcp", do_mptcp, 2, 2, "ADDR PORT"},
	{"packet", do_packet, 3, 5, "DEVICE ADDR PORT [N [--vlan|--cooked|--ring]]"},
	{"upload", do_upload, 3, 4, "ADDR PORT BYTES [--sendfile]"},
	{"download", do_download, 3, 4, "ADDR PORT BYTES [--splice]"},
	{"bulkudp", do_bulkudp, 3, 4, "ADDR PORT N [--gso|--back]"},
	{"serve", do_serve, 1, 1, "PORT"},
	{"bench", do_bench, 4, 4, "udp|tcp ADDR PORT N"},
	{"benchports", do_bench, 4, 4, "udp ADDR FIRST N"},
	{"benchaddrs", do_bench, 4, 4, "udp ADDR PORT N"},
	{"benchforks", do_bench, 4, 4, "udp ADDR PORT N"},
	{"benchmove", do_benchmove, 5, 5, "udp|tcp ADDR PORT BYTES N"},
};

static void __attribute__((noreturn)) usage(void)
{
	fputs("usage: traffic [named NAME | thread NAME] COMMAND ARGUMENTS\n", stderr);
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
		fprintf(stderr, "  %s %s\n", commands[i].name, commands[i].arguments);
	exit(EXIT_USAGE);
}

/* Set the name of this thread to a text in which \xHH, \n, \t, \r and \\ stand for what they do in C. */
static void set_comm(const char *text)
{
	static const char escapes[] = "ntr\\", meant[] = "\n\t\r\\";
	char comm[16] = "";

	for (size_t i = 0; *text; i++) {
		const char *escape;
		unsigned int byte = (unsigned char)*text++;

		if (i == sizeof comm - 1)
			fail(EXIT_USAGE, "a name has at most %zu bytes", sizeof comm - 1);
		if (byte == '\\') {
			if (*text && (escape = strchr(escapes, *text)))
				byte = meant[escape - escapes];
			else if (sscanf(text, "x%2x", &byte) == 1 && isxdigit(text[1]) && isxdigit(text[2]))
				text += 2;
			else
				fail(EXIT_USAGE, "a name has no escape \\%s", text);
			text++;
		}
		comm[i] = byte;
	}
	must(prctl(PR_SET_NAME, comm), "PR_SET_NAME");
}

struct arguments {
	int count;
	char **value;
};

static void *run_command(void *argument)
{
	const struct arguments *given = argument;
	const struct command *command = commands;

	while (strcmp(command->name, given->value[0]))
		if (++command == commands + sizeof commands / sizeof *commands)
			usage();
	if (given->count - 1 < command->least || given->count - 1 > command->most)
		fail(EXIT_USAGE, "usage: traffic %s %s", command->name, command->arguments);
	done.more = must_have(open_memstream(&done.more_text, &done.more_bytes));
	command->run(given->count, given->value);
	if (!done.reported)
		report();
	return NULL;
}

static void *run_named(void *argument)
{
	const struct arguments *given = argument;
	struct arguments rest = {given->count - 1, given->value + 1};

	set_comm(given->value[0]);
	return run_command(&rest);
}

int main(int argc, char **argv)
{
	struct arguments given = {argc - 1, argv + 1}, named = {argc - 2, argv + 2};
	pthread_t thread;

	own_argv = argv;
	signal(SIGPIPE, SIG_IGN);
	if (argc < 2)
		usage();
	if (argc > 3 && !strcmp(argv[1], "named")) {
		run_named(&named);
	} else if (argc > 3 && !strcmp(argv[1], "thread")) {
		start_thread(&thread, run_named, &named);
		pthread_join(thread, NULL);
	} else {
		run_command(&given);
	}
	if (fflush(stdout) || ferror(stdout))
		fail(EXIT_FAILURE, "cannot write to stdout");
	return done.status;
}
