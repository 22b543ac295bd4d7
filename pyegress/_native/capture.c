/* SPDX-License-Identifier: MIT */
#include "capture.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 64, UNSUPPORTED_KEPT = 16, ERROR_BYTES = 160 };
enum { NS_PER_S = 1000000000 };

enum pcap {
	PCAP_US = 0xa1b2c3d4,
	PCAP_NS = 0xa1b23c4d,
	PCAP_MODIFIED = 0xa1b2cd34, /* of old Linux: 8 more bytes in each record's header */
	PCAP_HEADER_BYTES = 24,
	PCAP_RECORD_BYTES = 16,
	PCAP_MODIFIED_BYTES = 24,
	PCAP_LINK_TYPE = 0x03ffffff, /* above it is the length of the frame check sequence */
};

enum blocks {
	BLOCK_INTERFACE = 1,
	BLOCK_OLD_PACKET = 2,
	BLOCK_SIMPLE_PACKET = 3,
	BLOCK_PACKET = 6,
	BLOCK_SECTION = 0x0a0d0d0a,
	ORDER_MAGIC = 0x1a2b3c4d,
	BLOCK_HEAD_BYTES = 8, /* type, length */
	BLOCK_FRAME_BYTES = 12, /* and the length again at the end */
};

enum options {
	OPTION_FLAGS = 2, /* of a packet */
	OPTION_NAME = 2, /* and these of an interface */
	OPTION_RESOLUTION = 9,
	OPTION_OFFSET = 14,
};

enum { PROTOCOL_TCP = 6, PROTOCOL_UDP = 17, SYN = 2, ACK = 16 };

struct interface {
	__s64 offset_s;
	__u32 snap_bytes;
	__u16 link_type;
	__u8 resolution;
	char name[NAME_BYTES];
};

struct piece {
	const __u8 *at;
	size_t bytes;
};

/* The bytes that it is done with, 0: it needs more, -1: error. *made: a packet was put to `out`. */
typedef ssize_t step(struct egress_capture *self, struct piece data, struct egress_packet *out, int *made);

struct egress_capture {
	step *next;
	unsigned long long position;
	int swapped;
	/* pcap */
	int record_bytes;
	__u32 ns_per_tick;
	int link_type;
	/* pcapng: those of the section begin at first_interface */
	struct interface *interfaces;
	__u32 interface_count, first_interface;
	__u32 skip, trailer;
	struct egress_capture_counts counts;
	int unsupported[UNSUPPORTED_KEPT];
	int unsupported_count;
	char error[ERROR_BYTES];
};

static step begin, pcap_record, pcapng_block;

static int fail(struct egress_capture *self, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(self->error, sizeof(self->error), format, args);
	va_end(args);
	return -1;
}

/* What a record says of itself can't be. */
static int lies(struct egress_capture *self, const char *format, ...)
{
	int used = snprintf(self->error, sizeof(self->error), "at byte %llu: ", self->position);
	va_list args;

	va_start(args, format);
	vsnprintf(self->error + used, sizeof(self->error) - (size_t)used, format, args);
	va_end(args);
	return -1;
}

static __u16 get16(const struct egress_capture *self, const __u8 *at)
{
	__u16 value;

	memcpy(&value, at, sizeof(value));
	return self->swapped ? __builtin_bswap16(value) : value;
}

static __u32 get32(const struct egress_capture *self, const __u8 *at)
{
	__u32 value;

	memcpy(&value, at, sizeof(value));
	return self->swapped ? __builtin_bswap32(value) : value;
}

static __u64 get64(const struct egress_capture *self, const __u8 *at)
{
	__u64 value;

	memcpy(&value, at, sizeof(value));
	return self->swapped ? __builtin_bswap64(value) : value;
}

static void note_unsupported(struct egress_capture *self, int link_type)
{
	for (int i = 0; i < self->unsupported_count; i++) {
		if (self->unsupported[i] == link_type)
			return;
	}
	if (self->unsupported_count < UNSUPPORTED_KEPT)
		self->unsupported[self->unsupported_count++] = link_type;
}

/* Whether it may open a connection; counted where not. */
static int wanted(struct egress_capture *self, struct piece packet, int link_type, struct egress_packet *out)
{
	int unreadable = egress_parse_packet(packet.at, (__u32)packet.bytes, link_type, out);

	self->counts.packets++;
	if (unreadable) {
		self->counts.unreadable[unreadable]++;
		if (unreadable == EGRESS_UNSUPPORTED_LINK)
			note_unsupported(self, link_type);
		return 0;
	}
	switch (out->flow.protocol) {
	case PROTOCOL_TCP:
		if ((out->tcp_flags & (SYN | ACK)) == SYN)
			return 1;
		self->counts.later_tcp++;
		return 0;
	case PROTOCOL_UDP:
		return 1;
	}
	self->counts.other_protocols++;
	return 0;
}

static void put_time(struct egress_packet *out, __u64 ts_ns)
{
	out->ts_ns = ts_ns;
	out->flags |= EGRESS_PACKET_HAS_TIME;
}

static void put_direction(struct egress_packet *out, int sent)
{
	out->flags &= ~(EGRESS_PACKET_SENT | EGRESS_PACKET_RECEIVED);
	out->flags |= sent ? EGRESS_PACKET_SENT : EGRESS_PACKET_RECEIVED;
}

static ssize_t pcap_record(struct egress_capture *self, struct piece data, struct egress_packet *out, int *made)
{
	static const __u8 zeros[PCAP_RECORD_BYTES];
	struct piece packet;

	if (data.bytes < (size_t)self->record_bytes)
		return 0;
	/* What a crash leaves behind the last packet: else each is one of no bytes, gigabytes of them. */
	if (!memcmp(data.at, zeros, sizeof(zeros)))
		return lies(self, "zeros where a packet should begin");
	packet.at = data.at + self->record_bytes;
	packet.bytes = get32(self, data.at + 8);
	if (packet.bytes > (size_t)(EGRESS_MOST_RECORD_BYTES - self->record_bytes))
		return lies(self, "a packet of %zu bytes", packet.bytes);
	if (data.bytes - (size_t)self->record_bytes < packet.bytes)
		return 0;
	if (wanted(self, packet, self->link_type, out)) {
		put_time(out, (__u64)get32(self, data.at) * NS_PER_S +
				      (__u64)get32(self, data.at + 4) * self->ns_per_tick);
		*made = 1;
	}
	return self->record_bytes + (ssize_t)packet.bytes;
}

static ssize_t begin_pcap(struct egress_capture *self, struct piece data)
{
	struct egress_packet nothing;
	__u16 major;

	if (data.bytes < PCAP_HEADER_BYTES)
		return 0;
	major = get16(self, data.at + 4);
	if (major != 2)
		return fail(self, "pcap of version %u is not supported", major);
	self->link_type = (int)(get32(self, data.at + 20) & PCAP_LINK_TYPE);
	if (egress_parse_packet(data.at, 0, self->link_type, &nothing) == EGRESS_UNSUPPORTED_LINK) {
		note_unsupported(self, self->link_type);
		return fail(self, "link type %d is not supported", self->link_type);
	}
	self->next = pcap_record;
	return PCAP_HEADER_BYTES;
}

static ssize_t begin(struct egress_capture *self, struct piece data, struct egress_packet *out, int *made)
{
	if (data.bytes < 4)
		return 0;
	self->record_bytes = PCAP_RECORD_BYTES;
	self->ns_per_tick = 1000;
	for (self->swapped = 0; self->swapped < 2; self->swapped++) {
		switch (get32(self, data.at)) {
		case PCAP_MODIFIED:
			self->record_bytes = PCAP_MODIFIED_BYTES;
			return begin_pcap(self, data);
		case PCAP_NS:
			self->ns_per_tick = 1;
			return begin_pcap(self, data);
		case PCAP_US:
			return begin_pcap(self, data);
		case BLOCK_SECTION:
			self->next = pcapng_block;
			return pcapng_block(self, data, out, made);
		}
	}
	return fail(self, "not a capture: neither pcap nor pcapng");
}

/* The option's value in a list of options; no bytes where it isn't there. A list that lies ends there. */
static struct piece find_option(const struct egress_capture *self, struct piece list, __u16 wanted_code)
{
	while (list.bytes >= 4) {
		__u16 code = get16(self, list.at), bytes = get16(self, list.at + 2);
		size_t whole = 4 + (((size_t)bytes + 3) & ~(size_t)3);

		if (!code || list.bytes < whole)
			break;
		if (code == wanted_code)
			return (struct piece){ list.at + 4, bytes };
		list.at += whole;
		list.bytes -= whole;
	}
	return (struct piece){ list.at, 0 };
}

/* Whether ticks of an interface are a time that ns since the epoch can tell. */
static int to_ns(const struct interface *interface, __u64 ticks, __u64 *ts_ns)
{
	int exponent = interface->resolution & 0x7f;
	__int128 ns;

	if (interface->resolution & 0x80) {
		ns = (__int128)ticks * NS_PER_S >> exponent;
	} else {
		ns = ticks;
		for (; exponent < 9; exponent++)
			ns *= 10;
		for (; exponent > 9 && ns; exponent--)
			ns /= 10;
	}
	ns += (__int128)interface->offset_s * NS_PER_S;
	if (ns < 0 || ns > (__int128)~0ULL)
		return 0;
	*ts_ns = (__u64)ns;
	return 1;
}

static ssize_t section_block(struct egress_capture *self, struct piece data)
{
	if (data.bytes < BLOCK_HEAD_BYTES + 8)
		return 0;
	self->swapped = 0;
	if (get32(self, data.at + 8) != ORDER_MAGIC) {
		self->swapped = 1;
		if (get32(self, data.at + 8) != ORDER_MAGIC)
			return lies(self, "a section without a byte order");
	}
	if (get16(self, data.at + 12) != 1)
		return lies(self, "pcapng of version %u is not supported", get16(self, data.at + 12));
	self->first_interface = self->interface_count;
	return 1;
}

static int add_interface(struct egress_capture *self, struct piece body)
{
	struct piece options, value;
	struct interface *added;
	__u32 count = self->interface_count;

	if (body.bytes < 8)
		return lies(self, "an interface without a link type");
	if (count == EGRESS_MOST_INTERFACES)
		return lies(self, "more than %d interfaces", EGRESS_MOST_INTERFACES);
	if (!(count & (count - 1))) {
		added = realloc(self->interfaces, (count ? 2 * (size_t)count : 1) * sizeof(*added));
		if (!added)
			return fail(self, "no memory");
		self->interfaces = added;
	}
	added = &self->interfaces[self->interface_count++];
	memset(added, 0, sizeof(*added));
	added->link_type = get16(self, body.at);
	added->snap_bytes = get32(self, body.at + 4);
	options = (struct piece){ body.at + 8, body.bytes - 8 };
	value = find_option(self, options, OPTION_RESOLUTION);
	added->resolution = value.bytes ? value.at[0] : 6;
	value = find_option(self, options, OPTION_OFFSET);
	added->offset_s = value.bytes == 8 ? (__s64)get64(self, value.at) : 0;
	value = find_option(self, options, OPTION_NAME);
	memcpy(added->name, value.at, value.bytes < NAME_BYTES ? value.bytes : NAME_BYTES - 1);
	return 0;
}

/* Of all three kinds; `number` is that of the section. */
static int packet_of(struct egress_capture *self, __u32 number, struct piece packet, struct egress_packet *out)
{
	number += self->first_interface;
	if (!wanted(self, packet, self->interfaces[number].link_type, out))
		return 0;
	out->interface = number;
	return 1;
}

static int has_interface(struct egress_capture *self, __u32 number)
{
	if (number < self->interface_count - self->first_interface)
		return 1;
	lies(self, "a packet of interface %u, which was not described", number);
	return 0;
}

static int simple_packet(struct egress_capture *self, struct piece body, struct egress_packet *out)
{
	struct piece packet = { body.at + 4, body.bytes - 4 };
	__u32 original, snap;

	if (body.bytes < 4)
		return lies(self, "a packet without a length");
	if (!has_interface(self, 0))
		return -1;
	original = get32(self, body.at);
	snap = self->interfaces[self->first_interface].snap_bytes;
	if (packet.bytes > original)
		packet.bytes = original;
	if (snap && packet.bytes > snap)
		packet.bytes = snap;
	if (!packet_of(self, 0, packet, out))
		return 0;
	self->counts.untimed++;
	return 1;
}

/* The obsolete kind has a number of two bytes and one of drops where the other has one of four. */
static int timed_packet(struct egress_capture *self, int obsolete, struct piece body, struct egress_packet *out)
{
	struct piece packet = { body.at + 20, 0 }, options;
	__u64 ticks, ts_ns;
	__u32 number;

	if (body.bytes < 20)
		return lies(self, "a packet without a length");
	number = obsolete ? get16(self, body.at) : get32(self, body.at);
	if (!has_interface(self, number))
		return -1;
	packet.bytes = get32(self, body.at + 12);
	if (packet.bytes > body.bytes - 20)
		return lies(self, "a packet of %zu bytes in a block of %zu", packet.bytes,
			    body.bytes + BLOCK_FRAME_BYTES);
	if (!packet_of(self, number, packet, out))
		return 0;
	ticks = (__u64)get32(self, body.at + 4) << 32 | get32(self, body.at + 8);
	if (to_ns(&self->interfaces[out->interface], ticks, &ts_ns))
		put_time(out, ts_ns);
	else
		self->counts.untimed++;
	options.at = packet.at + ((packet.bytes + 3) & ~(size_t)3);
	options.bytes = (size_t)(body.at + body.bytes - options.at);
	options = find_option(self, options, OPTION_FLAGS);
	if (options.bytes == 4) {
		__u32 direction = get32(self, options.at) & 3;

		if (direction == 1 || direction == 2)
			put_direction(out, direction == 2);
	}
	return 1;
}

/* Passes what nobody asks for, up to the length at its end. */
static ssize_t skip_block(struct egress_capture *self, size_t bytes)
{
	size_t now = bytes < self->skip ? bytes : self->skip;

	self->skip -= (__u32)now;
	return (ssize_t)now;
}

static ssize_t end_block(struct egress_capture *self, struct piece data)
{
	__u32 trailer = self->trailer;

	if (data.bytes < 4)
		return 0;
	if (get32(self, data.at) != trailer)
		return lies(self, "a block of %u bytes says %u at its end", trailer, get32(self, data.at));
	self->trailer = 0;
	return 4;
}

static ssize_t pcapng_block(struct egress_capture *self, struct piece data, struct egress_packet *out, int *made)
{
	struct piece body;
	__u32 type, bytes;
	int result = 0;

	if (self->skip)
		return skip_block(self, data.bytes);
	if (self->trailer)
		return end_block(self, data);
	if (data.bytes < BLOCK_HEAD_BYTES)
		return 0;
	type = get32(self, data.at);
	if (type == BLOCK_SECTION) {
		ssize_t ready = section_block(self, data);

		if (ready <= 0)
			return ready;
	}
	bytes = get32(self, data.at + 4);
	if (bytes < BLOCK_FRAME_BYTES || bytes % 4 || bytes > EGRESS_MOST_BLOCK_BYTES)
		return lies(self, "a block of %u bytes", bytes);
	body = (struct piece){ data.at + BLOCK_HEAD_BYTES, bytes - BLOCK_FRAME_BYTES };
	switch (type) {
	case BLOCK_INTERFACE:
	case BLOCK_OLD_PACKET:
	case BLOCK_SIMPLE_PACKET:
	case BLOCK_PACKET:
		if (bytes > EGRESS_MOST_RECORD_BYTES)
			return lies(self, "a block of %u bytes", bytes);
		if (data.bytes < bytes)
			return 0;
		break;
	default:
		self->skip = bytes - BLOCK_FRAME_BYTES;
		self->trailer = bytes;
		return BLOCK_HEAD_BYTES;
	}
	self->trailer = bytes;
	if (end_block(self, (struct piece){ body.at + body.bytes, 4 }) < 0)
		return -1;
	if (type == BLOCK_INTERFACE)
		result = add_interface(self, body);
	else if (type == BLOCK_SIMPLE_PACKET)
		result = simple_packet(self, body, out);
	else
		result = timed_packet(self, type == BLOCK_OLD_PACKET, body, out);
	if (result < 0)
		return -1;
	*made = result;
	return bytes;
}

/* What to say of bytes that are left when there will be no more. */
static int ends(struct egress_capture *self, size_t left)
{
	if (!self->position)
		return fail(self, left ? "not a capture: it ends inside its first header" : "it is empty");
	if (left || self->skip || self->trailer)
		self->counts.ends_inside = 1;
	return 0;
}

int egress_capture_feed(struct egress_capture *self, const void *data, size_t bytes, int last, size_t *used,
			struct egress_packet *arena, int capacity)
{
	struct piece left = { data, bytes };
	int count = 0;
	ssize_t took = 0;

	*used = 0;
	while (count < capacity) {
		int made = 0;

		took = self->error[0] ? -1 : self->next(self, left, &arena[count], &made);
		if (took <= 0)
			break;
		left.at += took;
		left.bytes -= (size_t)took;
		self->position += (size_t)took;
		count += made;
	}
	if (last && !took && count < capacity)
		took = ends(self, left.bytes);
	*used = bytes - left.bytes;
	/* Those before the error first; the next call finds it again. */
	return took < 0 && !count ? -1 : count;
}

struct egress_capture *egress_capture_new(void)
{
	struct egress_capture *self = calloc(1, sizeof(*self));

	if (self)
		self->next = begin;
	return self;
}

void egress_capture_free(struct egress_capture *self)
{
	free(self->interfaces);
	free(self);
}

const char *egress_capture_error(struct egress_capture *self)
{
	return self->error;
}

const struct egress_capture_counts *egress_capture_counts(struct egress_capture *self)
{
	return &self->counts;
}

const char *egress_capture_interface(struct egress_capture *self, __u32 number)
{
	return number < self->interface_count ? self->interfaces[number].name : "";
}

int egress_capture_unsupported(struct egress_capture *self, int index)
{
	return index < self->unsupported_count ? self->unsupported[index] : -1;
}
