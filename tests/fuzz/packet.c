/* SPDX-License-Identifier: MIT */
/* Any bytes as a packet of every link type. */
#include "packet.h"

#include <stddef.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
	for (int link_type = 0; link_type < 300; link_type++) {
		struct egress_packet packet;
		int unreadable = egress_parse_packet(data, (__u32)size, link_type, &packet);

		if (unreadable < 0 || unreadable >= EGRESS_UNREADABLES)
			abort();
		if (!unreadable && packet.flow.family != 4 && packet.flow.family != 6)
			abort();
	}
	return 0;
}
