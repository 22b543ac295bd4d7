/* SPDX-License-Identifier: MIT */
/*
 * Subcommands of traffic.c for other protocols than TCP and UDP, for many bytes, and the server of both. Included there,
 * behind what all subcommands use.
 */
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

enum {
	ECHO_REQUEST = 8,
	ECHO_REQUEST_6 = 128,
	ECHO_BYTES = 8,
	FRAMES = 8, /* in a ring */
	FRAME_ROOM = 2048,
	CHUNK_BYTES = 1 << 16,
	DATAGRAM_BYTES = 1200, /* as QUIC sends them */
	ANSWER_LIMIT_MS = 20000,
};

static const char order_mark[] = "serve me";

/* What a client asks of the server: so many bytes. */
struct order {
	char mark[8];
	uint64_t bytes;
};

static int protocol_socket(int family, int type, int protocol)
{
	int fd = socket(family, type | SOCK_CLOEXEC, protocol);

	if (fd < 0)
		fail(errno == EINVAL || errno == EMFILE ? EXIT_FAILURE : EXIT_NOT_OFFERED, "socket of protocol %d: %s",
		     protocol, strerror(errno));
	return fd;
}

/* Send these bytes to an address, or to the socket's peer, and say so. */
static void send_bytes(int fd, const struct addr *to, const void *from, size_t bytes)
{
	ssize_t taken = sendto(fd, from, bytes, 0, to ? &to->sa : NULL, to ? to->len : 0);

	log_call(fd, taken < 0 ? errno : 0);
	if (taken > 0) {
		done.sent++;
		done.bytes += taken;
	}
}

/* No port in it: raw sockets of IPv6 take that for a protocol. */
static struct addr host_address(const char *text)
{
	return address(text, "0");
}

static void do_ping(int argc, char **argv)
{
	struct addr to = host_address(argv[1]);
	bool v6 = to.sa.sa_family == AF_INET6;
	unsigned char echo[ECHO_BYTES] = {v6 ? ECHO_REQUEST_6 : ECHO_REQUEST};
	int fd = protocol_socket(to.sa.sa_family, SOCK_DGRAM, v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);

	if (!strcmp(argv[0], "pingconn") && !udp_connect(fd, &to))
		return;
	for (long left = count_arg(argc, argv, 2); left; left--)
		send_bytes(fd, strcmp(argv[0], "ping") ? NULL : &to, echo, sizeof echo);
}

static void do_raw(int argc, char **argv)
{
	struct addr to = host_address(argv[1]);
	long protocol = number(argv[2], 1, 254);
	unsigned char echo[ECHO_BYTES] = {protocol == IPPROTO_ICMPV6 ? ECHO_REQUEST_6 : ECHO_REQUEST};
	int fd = protocol_socket(to.sa.sa_family, SOCK_RAW, protocol);

	for (long left = count_arg(argc, argv, 3); left; left--)
		send_bytes(fd, &to, echo, sizeof echo);
}

static void put_port(unsigned char *udp, long port)
{
	udp[2] = port >> 8;
	udp[3] = port;
	udp[5] = 8;
}

/* A UDP datagram without payload and its IP header; the kernel fills IPv4's checksum. */
static size_t write_packet(unsigned char *at, const struct addr *to, long port)
{
	if (to->sa.sa_family == AF_INET) {
		struct iphdr header = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP};

		header.daddr = to->in.sin_addr.s_addr;
		header.saddr = header.daddr;
		header.tot_len = htons(sizeof header + 8);
		memcpy(at, &header, sizeof header);
		memset(at + sizeof header, 0, 8);
		put_port(at + sizeof header, port);
		return sizeof header + 8;
	} else {
		struct ip6_hdr header = {0};

		header.ip6_flow = htonl(6U << 28);
		header.ip6_plen = htons(8);
		header.ip6_nxt = IPPROTO_UDP;
		header.ip6_hlim = 64;
		header.ip6_src = header.ip6_dst = to->in6.sin6_addr;
		memcpy(at, &header, sizeof header);
		memset(at + sizeof header, 0, 8);
		put_port(at + sizeof header, port);
		return sizeof header + 8;
	}
}

/* The header says another address than the message's name, and comes in pieces. */
static void do_written(int argc, char **argv)
{
	struct addr name = host_address(argv[1]), to = host_address(argv[2]);
	long port = number(argv[3], 1, 65535);
	unsigned char packet[64];
	size_t bytes = write_packet(packet, &to, port);
	struct iovec piece[] = {{packet, 7}, {packet + 7, 20}, {packet + 27, bytes - 27}};
	struct msghdr message = {.msg_name = &name.sa, .msg_namelen = name.len, .msg_iov = piece, .msg_iovlen = 3};
	int fd = protocol_socket(name.sa.sa_family, SOCK_RAW, IPPROTO_RAW);

	for (long left = count_arg(argc, argv, 4); left; left--) {
		ssize_t taken = sendmsg(fd, &message, 0);

		log_call(fd, taken < 0 ? errno : 0);
		done.sent += taken > 0;
	}
}

static void do_udplite(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	int fd = protocol_socket(to.sa.sa_family, SOCK_DGRAM, IPPROTO_UDPLITE);

	for (long left = count_arg(argc, argv, 3); left; left--)
		send_datagram(fd, &to);
}

/* Connect; or `sctpto`: let the first message do it. */
static void do_sctp(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	bool implicit = !strcmp(argv[0], "sctpto");
	int fd = protocol_socket(to.sa.sa_family, implicit ? SOCK_SEQPACKET : SOCK_STREAM, IPPROTO_SCTP);
	struct timeval limit = {.tv_usec = CONNECT_LIMIT_MS * 1000};

	(void)argc;
	must(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit), "SO_SNDTIMEO");
	if (implicit)
		send_bytes(fd, &to, "x", 1);
	else
		tcp_connect(fd, &to);
}

static void do_mptcp(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);

	(void)argc;
	tcp_connect(protocol_socket(to.sa.sa_family, SOCK_STREAM, IPPROTO_MPTCP), &to);
}

/* Ethernet's header, with `tag` in front of the type where there is one. */
static size_t write_ethernet(unsigned char *at, const struct addr *to, bool tag)
{
	uint16_t type = htons(to->sa.sa_family == AF_INET ? ETH_P_IP : ETH_P_IPV6);
	size_t bytes = 12;

	memset(at, 2, bytes);
	if (tag) {
		memcpy(at + bytes, "\x81\0\x40\x07", 4);
		bytes += 4;
	}
	memcpy(at + bytes, &type, 2);
	return bytes + 2;
}

/* A ring of frames that the kernel sends without a copy. */
static void send_ring(int fd, const unsigned char *frame, size_t bytes, long count)
{
	struct tpacket_req ring = {
		.tp_block_size = FRAMES * FRAME_ROOM, .tp_block_nr = 1, .tp_frame_size = FRAME_ROOM, .tp_frame_nr = FRAMES};
	unsigned char *memory;

	if (count > FRAMES)
		fail(EXIT_USAGE, "a ring has %d frames", FRAMES);
	must(setsockopt(fd, SOL_PACKET, PACKET_TX_RING, &ring, sizeof ring), "PACKET_TX_RING");
	memory = mmap(NULL, ring.tp_block_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		fail(EXIT_FAILURE, "mmap: %s", strerror(errno));
	for (long i = 0; i < count; i++) {
		struct tpacket_hdr *head = (void *)(memory + i * FRAME_ROOM);

		memcpy(memory + i * FRAME_ROOM + TPACKET_HDRLEN - sizeof(struct sockaddr_ll), frame, bytes);
		head->tp_len = bytes;
		head->tp_status = TP_STATUS_SEND_REQUEST;
	}
	must(send(fd, NULL, 0, 0), "send");
	done.sent += count;
	done.calls++;
}

/* packet: with Ethernet's header, --vlan with a tag; --cooked: the kernel writes it; --ring: without a copy. */
static void do_packet(int argc, char **argv)
{
	struct addr to = host_address(argv[2]);
	long port = number(argv[3], 1, 65535), count = count_arg(argc, argv, 4);
	const char *how = argc > 5 ? argv[5] : "";
	bool cooked = !strcmp(how, "--cooked");
	struct sockaddr_ll device = {.sll_family = AF_PACKET, .sll_halen = 6, .sll_addr = {2, 0, 0, 0, 0, 1}};
	int fd = protocol_socket(AF_PACKET, cooked ? SOCK_DGRAM : SOCK_RAW, 0);
	unsigned char frame[128];
	size_t bytes = cooked ? 0 : write_ethernet(frame, &to, !strcmp(how, "--vlan"));

	device.sll_ifindex = if_nametoindex(argv[1]);
	device.sll_protocol = htons(to.sa.sa_family == AF_INET ? ETH_P_IP : ETH_P_IPV6);
	bytes += write_packet(frame + bytes, &to, port);
	must(bind(fd, (struct sockaddr *)&device, sizeof device), "bind");
	if (!strcmp(how, "--ring")) {
		send_ring(fd, frame, bytes, count);
		return;
	}
	for (; count; count--) {
		ssize_t taken = sendto(fd, frame, bytes, 0, (struct sockaddr *)&device, sizeof device);

		done.calls++;
		done.sent += taken > 0;
		if (taken < 0)
			fail(EXIT_FAILURE, "sendto: %s", strerror(errno));
	}
}

/* Many bytes */

static int connected(const struct addr *to)
{
	int fd = protocol_socket(to->sa.sa_family, SOCK_STREAM, 0);

	tcp_connect(fd, to);
	if (done.call[done.logged - 1].error)
		fail(EXIT_FAILURE, "connect: %s", error_name(done.call[done.logged - 1].error));
	return fd;
}

static void place_order(int fd, const struct addr *to, uint64_t bytes)
{
	struct order order = {.bytes = bytes};

	memcpy(order.mark, order_mark, sizeof order.mark);
	must(sendto(fd, &order, sizeof order, MSG_NOSIGNAL, to ? &to->sa : NULL, to ? to->len : 0), "order");
}

/* Bytes to the server; --sendfile: from a file, without copying them here. */
static void do_upload(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	long bytes = number(argv[3], 1, 1 << 30);
	bool by_file = has_flag(argc, argv, 4, "--sendfile");
	static char chunk[CHUNK_BYTES];
	int fd = connected(&to), file = by_file ? must(memfd_create("bytes", MFD_CLOEXEC), "memfd_create") : -1;

	place_order(fd, NULL, 0);
	if (by_file)
		must(ftruncate(file, bytes), "ftruncate");
	while (bytes) {
		ssize_t taken = by_file ? sendfile(fd, file, NULL, bytes)
					: send(fd, chunk, bytes < CHUNK_BYTES ? bytes : CHUNK_BYTES, MSG_NOSIGNAL);

		bytes -= must(taken, "send");
		done.bytes += taken;
	}
}

/* Bytes from the server; --splice: into a pipe and no further. */
static void do_download(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	long bytes = number(argv[3], 1, 1 << 30);
	bool splices = has_flag(argc, argv, 4, "--splice");
	static char chunk[CHUNK_BYTES];
	int fd = connected(&to), pipes[2], nowhere = must(open("/dev/null", O_WRONLY | O_CLOEXEC), "/dev/null");

	must(pipe2(pipes, O_CLOEXEC), "pipe");
	place_order(fd, NULL, bytes);
	while (bytes) {
		ssize_t taken = splices ? splice(fd, NULL, pipes[1], NULL, CHUNK_BYTES, 0) : recv(fd, chunk, CHUNK_BYTES, 0);

		if (must(taken, "receive") == 0)
			fail(EXIT_FAILURE, "the server ended early");
		if (splices)
			must(splice(pipes[0], NULL, nowhere, NULL, taken, 0), "splice");
		bytes -= taken;
	}
}

/* N datagrams as large as QUIC's; --gso: the kernel cuts them; --back: one goes, and N come. */
static void do_bulkudp(int argc, char **argv)
{
	struct addr to = address(argv[1], argv[2]);
	long left = number(argv[3], 1, 1000000);
	const char *how = argc > 4 ? argv[4] : "";
	static char chunk[16 * DATAGRAM_BYTES];
	int fd = udp_socket(&to), size = DATAGRAM_BYTES;
	struct timeval limit = {.tv_sec = ANSWER_LIMIT_MS / 1000};

	must(connect(fd, &to.sa, to.len), "connect");
	if (!strcmp(how, "--back")) {
		must(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit), "SO_RCVTIMEO");
		place_order(fd, NULL, left);
		done.sent = done.calls = 1;
		/* What comes may be dropped: one is enough to know that it was asked for. */
		must(recv(fd, chunk, sizeof chunk, 0), "recv");
		return;
	}
	if (!strcmp(how, "--gso") && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size))
		fail(EXIT_NOT_OFFERED, "UDP_SEGMENT: %s", strerror(errno));
	while (left) {
		long now = strcmp(how, "--gso") ? 1 : left < 16 ? left : 16;

		must(send(fd, chunk, now * DATAGRAM_BYTES, 0), "send");
		done.calls++;
		done.sent += now;
		left -= now;
	}
}

/* The server: does as orders say, and takes whatever else comes. It ends with its input. */

static void *serve_one(void *argument)
{
	int fd = (intptr_t)argument;
	static const char chunk[CHUNK_BYTES];
	static char taken[CHUNK_BYTES];
	struct order order = {0};

	if (recv(fd, &order, sizeof order, MSG_WAITALL) == sizeof order) {
		for (ssize_t gone; order.bytes; order.bytes -= gone) {
			gone = send(fd, chunk, order.bytes < CHUNK_BYTES ? order.bytes : CHUNK_BYTES, MSG_NOSIGNAL);
			if (gone <= 0)
				break;
		}
		while (recv(fd, taken, sizeof taken, 0) > 0)
			;
	}
	close(fd);
	return NULL;
}

static void answer(int fd)
{
	struct addr from = {.len = sizeof from.in6};
	static char datagram[DATAGRAM_BYTES];
	struct order order;
	ssize_t bytes = recvfrom(fd, datagram, sizeof datagram, MSG_DONTWAIT, &from.sa, &from.len);

	if (bytes != sizeof order)
		return;
	memcpy(&order, datagram, sizeof order);
	if (!memcmp(order.mark, order_mark, sizeof order.mark))
		while (order.bytes--)
			sendto(fd, datagram, sizeof datagram, 0, &from.sa, from.len);
}

static void do_serve(int argc, char **argv)
{
	struct addr own = address("::", argv[1]);
	struct pollfd wait[] = {{.fd = STDIN_FILENO, .events = POLLIN},
				{.fd = open_socket(AF_INET6, SOCK_STREAM), .events = POLLIN},
				{.fd = open_socket(AF_INET6, SOCK_DGRAM), .events = POLLIN}};
	pthread_t thread;

	(void)argc;
	set_option(wait[1].fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
	must(bind(wait[1].fd, &own.sa, own.len), "bind");
	must(bind(wait[2].fd, &own.sa, own.len), "bind");
	must(listen(wait[1].fd, 128), "listen");
	report();
	while (poll(wait, 3, -1) >= 0 || errno == EINTR) {
		if (wait[0].revents)
			break;
		if (wait[1].revents) {
			intptr_t fd = accept4(wait[1].fd, NULL, NULL, SOCK_CLOEXEC);

			if (fd >= 0 && !pthread_create(&thread, NULL, serve_one, (void *)fd))
				pthread_detach(thread);
		}
		if (wait[2].revents)
			answer(wait[2].fd);
	}
}
