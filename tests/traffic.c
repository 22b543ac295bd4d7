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
 *           its errno, or OK; udpburst, bench and benchports make too many calls for that, and print failed=,
 *           errno= of the first failure, and sport=
 *
 * Exit status: 0 when the calls were made, whatever their errnos; 1 when something else failed, or a timed
 * call did; 2 for bad arguments; 77 when the kernel does not offer what the subcommand needs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/io_uring.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
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
};

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
static struct {
	long sent, calls, bytes;
	struct call *call;
	size_t logged, room;
	FILE *more; /* the words that the subcommand adds to the line */
	int status;
} done;

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

static void do_iouring(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	bool async = has_flag(argc, argv, 3, "--async");
	int fd = open_socket(to.sa.sa_family, SOCK_STREAM), error = EINPROGRESS;
	struct io_uring_params params = {0};
	int ring = syscall(__NR_io_uring_setup, 1, &params);
	struct pollfd completion = {.fd = ring, .events = POLLIN};
	size_t sq_size, cq_size;
	struct io_uring_sqe *sqe;
	char *rings;

	if (ring < 0)
		fail(EXIT_NOT_OFFERED, "io_uring_setup: %s", strerror(errno));
	if (!(params.features & IORING_FEAT_SINGLE_MMAP))
		fail(EXIT_NOT_OFFERED, "io_uring is too old to connect");
	sq_size = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
	cq_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	rings = map_ring(ring, sq_size > cq_size ? sq_size : cq_size, IORING_OFF_SQ_RING);
	sqe = map_ring(ring, params.sq_entries * sizeof *sqe, IORING_OFF_SQES);

	sqe->opcode = IORING_OP_CONNECT;
	sqe->flags = async ? IOSQE_ASYNC : 0;
	sqe->fd = fd;
	sqe->addr = (uintptr_t)&to.sa;
	sqe->off = to.len;
	*(uint32_t *)(rings + params.sq_off.array) = 0;
	__atomic_store_n((uint32_t *)(rings + params.sq_off.tail), 1, __ATOMIC_RELEASE);
	if (syscall(__NR_io_uring_enter, ring, 1, 0, 0, NULL, 0) != 1)
		fail(EXIT_NOT_OFFERED, "io_uring_enter: %s", strerror(errno));

	/* A blackholed connect does not complete: it is left in progress, and ends with the process. */
	while (poll(&completion, 1, CONNECT_LIMIT_MS) < 0)
		if (errno != EINTR)
			must(-1, "poll");
	if (__atomic_load_n((uint32_t *)(rings + params.cq_off.tail), __ATOMIC_ACQUIRE) == 1)
		error = -((struct io_uring_cqe *)(rings + params.cq_off.cqes))->res;
	log_connect(fd, error);
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

/* bench and benchports: one call to warm up, then N that are timed one by one. */
static void do_bench(int argc, char **argv)
{
	bool wrap = !strcmp(argv[0], "benchports"), tcp = !strcmp(argv[1], "tcp");
	struct addr to = address(argv[2], argv[3]);
	long first = number(argv[3], wrap ? WRAP_FIRST : 0, wrap ? WRAP_LAST : 65535);
	long count = count_arg(argc, argv, 4), failed = 0;
	uint64_t *spent = must_have(calloc(count, sizeof *spent)), sum = 0, clock_only = UINT64_MAX;
	int fd = -1, first_error = 0, sport;

	if (!tcp && strcmp(argv[1], "udp"))
		fail(EXIT_USAGE, "%s takes udp or tcp, not %s", argv[0], argv[1]);
	if (tcp && wrap)
		fail(EXIT_USAGE, "benchports takes udp only");
	memset(spent, 0xff, count * sizeof *spent); /* No page of it is new while the calls are timed. */
	for (int i = 0; i < 16; i++) {
		uint64_t start = now_ns(), ns = now_ns() - start;

		clock_only = ns < clock_only ? ns : clock_only;
	}
	if (!tcp)
		fd = udp_socket(&to);
	for (long i = -1; i < count; i++) {
		uint64_t start, end;
		bool ok;

		if (wrap)
			set_port(&to, WRAP_FIRST + (first - WRAP_FIRST + i + 1) % WRAP_PORTS);
		if (tcp) {
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
	done.calls = count + 1;
	done.sent = count + 1 - failed;
	done.bytes = tcp ? 0 : done.sent;
	print_failures(failed, first_error);
	fprintf(done.more, " sport=%d n=%ld min=%" PRIu64 " median=%" PRIu64 " sum=%" PRIu64,
		sport, count, spent[0], spent[count / 2], sum);
	fprintf(done.more, " clock=%" PRIu64, clock_only);
	free(spent);
	/* Times of failed calls are not the ones asked for. */
	if (failed) {
		fprintf(stderr, "traffic: %ld of %ld calls failed, the first with %s\n", failed, count + 1,
			error_name(first_error));
		done.status = EXIT_FAILURE;
	}
}

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
	{"bench", do_bench, 4, 4, "udp|tcp ADDR PORT N"},
	{"benchports", do_bench, 4, 4, "udp ADDR FIRST N"},
};

static void __attribute__((noreturn)) usage(void)
{
	fputs("usage: traffic [named NAME | thread NAME] COMMAND ARGUMENTS\n", stderr);
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
		fprintf(stderr, "  %s %s\n", commands[i].name, commands[i].arguments);
	exit(EXIT_USAGE);
}

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
	char *more;
	size_t more_bytes;

	while (strcmp(command->name, given->value[0]))
		if (++command == commands + sizeof commands / sizeof *commands)
			usage();
	if (given->count - 1 < command->least || given->count - 1 > command->most)
		fail(EXIT_USAGE, "usage: traffic %s %s", command->name, command->arguments);
	done.more = must_have(open_memstream(&more, &more_bytes));
	command->run(given->count, given->value);
	fclose(done.more);

	printf("pid=%d sent=%ld calls=%ld bytes=%ld tid=%d", getpid(), done.sent, done.calls, done.bytes,
	       gettid());
	print_comm();
	if (done.logged)
		print_calls();
	puts(more);
	free(more);
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
