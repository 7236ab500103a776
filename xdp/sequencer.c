/* SPDX-License-Identifier: Apache-2.0
 *
 * The sequencer in the network: verifies requests, stamps them in place and multicasts
 * them to all replicas (NOPaxos, section 4). The packets are those of the Rust crate
 * `wire`, module `oum`, whose diagram has the offsets used here; a test runs both on the
 * same packets.
 *
 *   client ──▶ sequencer ──▶ devmap ─┬─▶ sequencer_address ──▶ replica 0
 *                                    ├─▶ sequencer_address ──▶ replica 1
 *                                    └─▶ ...
 *
 * Copies are plain unicast: replicas keep their UDP sockets, and any network that carries
 * IPv4 will do. Everything that is not a request (sessions, tails, ARP), and requests in
 * fragments or behind IP options, go to the kernel and so to the user-space agent.
 *
 * A session and its counters are one object that is never used for another session. The
 * agent makes a new one and puts it in the place of the old; that system call returns when
 * no program uses the old one any more. So no number of one session can ever be stamped
 * under another.
 */
#include "siphash.h"

#define VERSION 1
#define KIND_REQUEST 1
#define KIND_ORDERED 2
#define HEADER 128 /* bytes before the operations */
#define STAMPS 4   /* groups a message may be for */
#define GROUPS 16  /* groups a sequencer numbers */
#define REPLICAS 9
#define CLIENTS 1024
#define REPLAY_WINDOW 1024
#define REPLAY_WORDS (REPLAY_WINDOW / 64)

enum {
	COUNT_STAMPED,
	COUNT_PASSED,
	COUNT_MALFORMED,
	COUNT_UNAUTHENTIC,
	COUNT_STRANGER,
	COUNT_REPLAYED,
	COUNT_UNSTAMPED,
	COUNTERS
};

/* Fields that are written as they are stand in network order. */
struct settings {
	__u32 address;
	__u16 port;
	__u8 number; /* among the group's sequencers */
	__u8 unused;
	struct sip request; /* the key that clients tag with */
};

struct session {
	__u64 formation; /* network order */
	__u64 number;    /* network order; 0: none */
	__u64 not_before; /* log time */
	/* The key of ordered messages, with formation, session and the upper half of an
	 * IPv4-mapped address absorbed. */
	struct sip ordered;
	__u64 last[GROUPS]; /* numbers given */
};

struct client {
	__u32 address; /* where answers go, network order */
	__u16 port;
	__u16 place; /* of its window, plus 1; 0: not a client */
};

/* Which requests of the newest life of a client were seen, as in `ReplayWindow`. Packets of
 * one client come to one CPU; should they not, a request may be taken twice, which the
 * replicas' client table makes good. */
struct window {
	__u64 life;
	__u64 newest;
	__u64 any;
	__u64 seen[REPLAY_WORDS];
};

struct target {
	__u8 mac[6];
	__u8 from[6];
	__u32 address; /* network order */
	__u16 port;
	__u16 unused;
};

/* The replicas that are reached by one interface. */
struct port {
	__u32 ifindex;
	__u32 count;
	struct target targets[REPLICAS];
};

/* Which copy of a message comes next. */
struct turn {
	__u64 tag;
	__u32 copies;
	__u32 unused;
};

#define ARRAY(name, entries, kind)            \
	struct {                                  \
		__uint(type, BPF_MAP_TYPE_ARRAY);     \
		__uint(max_entries, entries);         \
		__type(key, __u32);                   \
		__type(value, kind);                  \
	} name SEC(".maps")

ARRAY(sequencer, 1, struct settings);
/* Log time minus the kernel's monotonic clock. */
ARRAY(clock_offset, 1, __u64);
ARRAY(clients, 65536, struct client);
ARRAY(windows, CLIENTS, struct window);
ARRAY(ports, REPLICAS, struct port);

/* Its variable is no session; the compiler describes the type only if there is one. */
struct session_array {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct session);
} no_session SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct session_array);
} sessions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, REPLICAS);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} replicas SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REPLICAS);
	__type(key, __u32);
	__type(value, struct turn);
} turns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

force_inline int done(__u32 counter, int action)
{
	__u64 *count = bpf_map_lookup_elem(&counters, &counter);

	if (count)
		*count += 1;
	return action;
}

#define WORD(at) (*(__u64 *)(at))
#define HALF(at) (*(__u32 *)(at))
#define SHORT(at) (*(__u16 *)(at))

/* RFC 4303, 3.4.3: whether `counter` is new; from now on it is not. */
force_inline int is_new(struct window *window, __u64 life, __u64 counter)
{
	__u64 mask = 1ULL << (counter & 63);
	__u64 *word = &window->seen[counter / 64 % REPLAY_WORDS];

	if (life < window->life)
		return 0;
	if (life > window->life || !window->any) {
		__builtin_memset(window->seen, 0, sizeof(window->seen));
		window->life = life;
		window->any = 1;
	} else if (counter == window->newest + 1) {
		*word &= ~mask;
	} else if (counter > window->newest) {
		/* What lies between is not seen yet: word by word, at most all of them. */
		__u64 at = window->newest + 1;

		for (int i = 0; i <= REPLAY_WORDS && at <= counter; i++) {
			__u64 below = (1ULL << (at & 63)) - 1;
			__u64 first = at / 64 * 64;
			__u64 keep = below;

			if (counter - first < 63)
				keep |= ~0ULL << (counter - first + 1);
			window->seen[at / 64 % REPLAY_WORDS] &= keep;
			at = first + 64;
			if (at == 0) /* beyond the last number */
				break;
		}
	} else if (window->newest - counter >= REPLAY_WINDOW || (*word & mask)) {
		return 0;
	} else {
		*word |= mask;
		return 1;
	}
	window->newest = counter;
	*word |= mask;
	return 1;
}

/* Whether the request names one to four different groups and nothing after them. */
force_inline int groups_are_sound(__u64 ids, __u32 count)
{
	__u16 a = ids, b = ids >> 16, c = ids >> 32, d = ids >> 48;

	if (count == 1)
		return ids >> 16 == 0;
	if (count == 2)
		return ids >> 32 == 0 && a != b;
	if (count == 3)
		return d == 0 && a != b && a != c && b != c;
	return count == 4 && a != b && a != c && a != d && b != c && b != d && c != d;
}

/* Draws the next number of a group; 0 if it has none. The last is never given. */
force_inline __u64 draw(struct session *session, __u16 group)
{
	__u32 place = bpf_ntohs(group);

	if (place >= GROUPS || session->last[place] >= ~0ULL - 1)
		return 0;
	return __sync_fetch_and_add(&session->last[place], 1) + 1;
}

force_inline int group_has_numbers(struct session *session, __u16 group)
{
	__u32 place = bpf_ntohs(group);

	return place < GROUPS && session->last[place] < ~0ULL - 1;
}

/* Numbers the request's groups, writes the numbers and absorbs them. The first group is the
 * usual case. (Numbers for several groups are drawn one after the other: their order is the
 * same everywhere as long as one CPU serves requests for several groups.) */
force_inline int number(struct session *session, __u8 *p, __u64 ids, __u32 count,
			struct sip *tag, int authentic)
{
	for (__u32 i = 0; i < STAMPS; i++)
		if (i < count && !group_has_numbers(session, ids >> (16 * i)))
			return 0;
	for (__u32 i = 0; i < STAMPS; i++) {
		__u64 word = 0;

		if (i < count) {
			word = bpf_cpu_to_be64(draw(session, ids >> (16 * i)));
			if (authentic)
				sip_word(tag, word);
		}
		WORD(p + 56 + 8 * i) = word;
	}
	return 1;
}

/* A request, `p` its first byte. Every header byte exists. */
force_inline int stamp(struct settings *settings, __u8 *p, int authentic)
{
	__u32 zero = 0;
	__u64 head = WORD(p), inner = WORD(p + 88), id = WORD(p + 96), counter = WORD(p + 104);
	__u64 ids = WORD(p + 112);
	__u32 count = p[4];

	if (p[2] != VERSION || !groups_are_sound(ids, count))
		return done(COUNT_MALFORMED, XDP_DROP);
	if (authentic) {
		struct sip tag = settings->request;

		sip_word(&tag, inner);
		sip_word(&tag, id);
		sip_word(&tag, counter);
		if (bpf_cpu_to_be64(sip_finish(&tag, head >> 16, 30)) != WORD(p + 8))
			return done(COUNT_UNAUTHENTIC, XDP_DROP);
	}
	id = bpf_be64_to_cpu(id);
	__u32 sender = id & 0xffff;
	struct client *client = bpf_map_lookup_elem(&clients, &sender);

	if (!client || client->place == 0)
		return done(COUNT_STRANGER, XDP_DROP);
	if (authentic) {
		__u32 place = client->place - 1;
		struct window *window = bpf_map_lookup_elem(&windows, &place);

		if (!window || !is_new(window, id >> 16, bpf_be64_to_cpu(counter)))
			return done(COUNT_REPLAYED, XDP_DROP);
	}
	void *place = bpf_map_lookup_elem(&sessions, &zero);
	struct session *session = place ? bpf_map_lookup_elem(place, &zero) : 0;
	__u64 *offset = bpf_map_lookup_elem(&clock_offset, &zero);

	if (!session || session->number == 0 || !offset)
		return done(COUNT_UNSTAMPED, XDP_DROP);
	struct sip tag = session->ordered;
	/* ::ffff:a.b.c.d */
	__u64 reply = bpf_cpu_to_be64(0xffff00000000ULL) | (__u64)client->address << 32;
	__u64 time = bpf_ktime_get_ns() + *offset;

	if (time < session->not_before)
		time = session->not_before;
	time = bpf_cpu_to_be64(time);
	if (authentic) {
		sip_word(&tag, reply);
		sip_word(&tag, time);
	}
	if (!number(session, p, ids, count, &tag, authentic))
		return done(COUNT_UNSTAMPED, XDP_DROP);
	head = (head & 0xff00ffffffULL) | KIND_ORDERED << 24 | (__u64)settings->number << 40 |
	       (__u64)client->port << 48;
	WORD(p) = head;
	WORD(p + 16) = session->formation;
	WORD(p + 24) = session->number;
	WORD(p + 32) = 0;
	WORD(p + 40) = reply;
	WORD(p + 48) = time;
	if (authentic) {
		sip_word(&tag, inner);
		WORD(p + 8) = bpf_cpu_to_be64(sip_finish(&tag, head >> 16, 54 + 8 * count));
	}
	return done(COUNT_STAMPED, XDP_REDIRECT);
}

/* A packet whose IPv4 header begins at `at`. */
force_inline int sequence(struct frame frame, __u32 at, int authentic)
{
	__u32 zero = 0;
	struct settings *settings = bpf_map_lookup_elem(&sequencer, &zero);
	__u8 *ip = frame.data + at, *udp = ip + IPV4_BYTES, *p = udp + 8;

	if (!settings || p + 4 > frame.end || ip[0] != 0x45 || ip[9] != PROTO_UDP ||
	    HALF(ip + 16) != settings->address || SHORT(udp + 2) != settings->port)
		return done(COUNT_PASSED, XDP_PASS);
	/* A fragment, or not a request: for the agent. */
	if (be16(ip + 6) & 0x3fff || p[0] != 'S' || p[1] != 'O' || p[3] != KIND_REQUEST)
		return done(COUNT_PASSED, XDP_PASS);
	__u32 length = be16(udp + 4);

	if (p + HEADER > frame.end || length < 8 + HEADER || length + IPV4_BYTES != be16(ip + 2) ||
	    udp + length > frame.end)
		return done(COUNT_MALFORMED, XDP_DROP);
	return stamp(settings, p, authentic);
}

force_inline int run(struct xdp_md *ctx, int authentic)
{
	struct frame frame = frame_of(ctx);
	int action = XDP_PASS;

	if (frame.data + ETH_BYTES + 4 > frame.end)
		return done(COUNT_PASSED, XDP_PASS);
	__u16 type = be16(frame.data + 12);

	if (type == ETHERTYPE_IPV4)
		action = sequence(frame, ETH_BYTES, authentic);
	else if (type == ETHERTYPE_VLAN && be16(frame.data + 16) == ETHERTYPE_IPV4)
		action = sequence(frame, ETH_BYTES + 4, authentic);
	else
		return done(COUNT_PASSED, XDP_PASS);
	if (action == XDP_REDIRECT)
		return bpf_redirect_map(&replicas, 0, BPF_F_BROADCAST);
	return action;
}

SEC("xdp")
int sequencer_stamp(struct xdp_md *ctx)
{
	return run(ctx, 1);
}

/* The same without tags and replay windows: what authentication costs is the difference. */
SEC("xdp")
int sequencer_bare(struct xdp_md *ctx)
{
	return run(ctx, 0);
}

/* No sequencer at all, only its multicast: what stamping costs is the difference. */
SEC("xdp")
int sequencer_forward(struct xdp_md *ctx)
{
	struct frame frame = frame_of(ctx);
	__u8 *p = frame.data + ETH_BYTES + IPV4_BYTES + 8;

	if (p + HEADER > frame.end || p[0] != 'S' || p[1] != 'O' || p[3] != KIND_REQUEST)
		return done(COUNT_PASSED, XDP_PASS);
	return bpf_redirect_map(&replicas, 0, BPF_F_BROADCAST);
}

/* Addresses a copy, whose IPv4 header begins at `at`, to a replica. Its UDP checksum becomes
 * 0, "not computed": the tags say more than it could. */
force_inline int address(struct frame frame, __u32 at, const struct target *target)
{
	__u8 *ip = frame.data + at, *udp = ip + IPV4_BYTES;

	if (udp + 8 > frame.end)
		return XDP_DROP;
	__builtin_memcpy(frame.data, target->mac, 6);
	__builtin_memcpy(frame.data + 6, target->from, 6);
	HALF(ip + 12) = HALF(ip + 16);
	HALF(ip + 16) = target->address;
	ip[8] = 64;
	SHORT(ip + 10) = 0;
	__u64 sum = 0;

	for (int i = 0; i < IPV4_BYTES; i += 4)
		sum += HALF(ip + i);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	SHORT(ip + 10) = ~sum;
	SHORT(udp) = SHORT(udp + 2);
	SHORT(udp + 2) = target->port;
	SHORT(udp + 6) = 0;
	return XDP_PASS;
}

force_inline int address_any(struct frame frame, const struct target *target)
{
	if (frame.data + ETH_BYTES + 4 > frame.end)
		return XDP_DROP;
	if (be16(frame.data + 12) == ETHERTYPE_VLAN)
		return address(frame, ETH_BYTES + 4, target);
	return address(frame, ETH_BYTES, target);
}

/* Which copy of its message this is, of those that leave by the same interface: they come
 * one after the other, on one CPU. */
force_inline __u32 copy_of(struct frame frame, __u32 port)
{
	struct turn *turn = bpf_map_lookup_elem(&turns, &port);
	__u32 at = ETH_BYTES + IPV4_BYTES + 8;
	__u8 *p = frame.data + at;

	if (p + 20 > frame.end || !turn)
		return 0;
	if (be16(frame.data + 12) == ETHERTYPE_VLAN)
		p += 4;
	if (turn->tag != WORD(p + 8)) {
		turn->tag = WORD(p + 8);
		turn->copies = 0;
	}
	return turn->copies++;
}

SEC("xdp/devmap")
int sequencer_address(struct xdp_md *ctx)
{
	struct frame frame = frame_of(ctx);

	for (__u32 i = 0; i < REPLICAS; i++) {
		__u32 place = i, copy = 0;
		struct port *port = bpf_map_lookup_elem(&ports, &place);

		if (!port || port->count == 0)
			return XDP_DROP;
		if (port->ifindex != ctx->egress_ifindex)
			continue;
		if (port->count > 1)
			copy = copy_of(frame, place);
		if (copy >= port->count || copy >= REPLICAS)
			return XDP_DROP;
		return address_any(frame, &port->targets[copy]);
	}
	return XDP_DROP;
}

/* The first target's addressing, for tests. */
SEC("xdp")
int probe_address(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct port *port = bpf_map_lookup_elem(&ports, &zero);

	return port ? address_any(frame_of(ctx), &port->targets[0]) : XDP_DROP;
}

char _license[] SEC("license") = "Dual MIT/GPL";
