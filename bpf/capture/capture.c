//go:build ignore

// SPDX-License-Identifier: GPL-2.0
// The programs that capture a pod's traffic, in its own network namespace:
//
//   lookup, for packets that belong to no connection yet, chooses the proxy's listener instead of the app's.
//   egress, where packets leave the pod, sends the app's new connections, and all that belongs to one of the proxy's, back inward.
//   virtual, where they come from a virtual machine or a container in the pod, keeps the same of theirs inside.
//
// No address is rewritten, so nothing has to be remembered: an accepted socket's local address is what the app dialled.
// Every map belongs to one pod. With a slot empty there is no proxy, and what is captured is dropped.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define TCX_NEXT (-1) // linux/bpf.h knows them since 6.6
#define TCX_DROP 2

#define LOOPBACK 1       // lo's index in every network namespace
#define MARK_MASK 0xfff
#define PROXY_MARK 0x539 // on every socket of the proxy
#define INWARD_MARK 0x540 // routes a packet to lo, whatever its destination
#define PORT_HBONE 15008
#define PORT_DNS 53

char gpl[] SEC("license") = "GPL"; // some helpers ask for it

// Slots of the proxy's listeners. It has two for names, since they are on loopback addresses: the one for IPv6 is behind that for IPv4.
enum { OUTBOUND, INBOUND, HBONE, DNS_TCP, DNS_TCP6, DNS_UDP, DNS_UDP6, SLOTS };

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, SLOTS);
	__uint(key_size, sizeof(__u32)); // this kind of map has no types, and to find that out takes 30 ms
	__uint(value_size, sizeof(__u64)); // a socket's cookie, for those who read it
} slots SEC(".maps");

// What is switched on.
enum { CAPTURE_IN = 1, CAPTURE_OUT = 2, CAPTURE_DNS = 4 };

struct settings {
	__u32 on;
	__u32 loopback; // LOOPBACK; another one in tests, which can't say where a packet comes from
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} settings SEC(".maps");

// An address: IPv6, or IPv4 mapped into it.
struct address {
	__u32 part[4]; // network order
};

// The pod's own addresses, but for loopback's.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct address);
	__type(value, __u8);
} own SEC(".maps");

// Interfaces with a virtual machine or containers behind them, by index; those that aren't there yet have other numbers. Only who makes
// these maps reads the names.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, char[16]);
} virtual SEC(".maps");

// What was there before, kept for whoever takes capture away. The programs don't use it.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u32);
} before SEC(".maps");

// Counters: connections (for those of UDP: questions) by slot, then these.
enum { PASSED = SLOTS, REFUSED, INWARD, COUNTERS };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 what)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &what);

	if (counter)
		*counter += 1;
}

static __always_inline struct settings *set(void)
{
	__u32 first = 0;

	return bpf_map_lookup_elem(&settings, &first);
}

static __always_inline struct address mapped(__u32 ipv4)
{
	struct address a = {{0, 0, bpf_htonl(0xffff), ipv4}};

	return a;
}

static __always_inline int equal(const struct address *a, const struct address *b)
{
	return a->part[0] == b->part[0] && a->part[1] == b->part[1] && a->part[2] == b->part[2] && a->part[3] == b->part[3];
}

static __always_inline int is_loopback(const struct address *a)
{
	if (a->part[0] || a->part[1])
		return 0;
	if (a->part[2] == bpf_htonl(0xffff))
		return (a->part[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !a->part[2] && a->part[3] == bpf_htonl(1);
}

// The node's own probes come from these.
static __always_inline int is_probe(const struct address *a)
{
	const struct address probe4 = mapped(bpf_htonl(0xa9fe077f)); // 169.254.7.127
	const struct address probe6 = {{bpf_htonl(0xfd169254), bpf_htonl(0x71271337), 0xffffffff, 0xffffffff}};

	return equal(a, &probe4) || equal(a, &probe6);
}

static __always_inline int is_own(const struct address *a) { return bpf_map_lookup_elem(&own, a) != 0; }

static __always_inline int is_virtual(__u32 interface) { return bpf_map_lookup_elem(&virtual, &interface) != 0; }

static __always_inline int pass(void)
{
	count(PASSED);
	return SK_PASS;
}

// steer hands the packet to a slot's listener. The port's other listeners, of an older proxy, get nothing.
static __always_inline int steer(struct bpf_sk_lookup *ctx, __u32 slot, int without)
{
	struct bpf_sock *listener = bpf_map_lookup_elem(&slots, &slot);
	long err;

	if (!listener) {
		count(REFUSED);
		return without;
	}
	err = bpf_sk_assign(ctx, listener, BPF_SK_LOOKUP_F_NO_REUSEPORT);
	bpf_sk_release(listener);
	if (err) {
		count(REFUSED);
		return SK_DROP;
	}
	count(slot);
	return SK_PASS;
}

// from_wire decides about a connection that comes from outside.
static __always_inline int from_wire(struct bpf_sk_lookup *ctx, __u32 on, const struct address *local, const struct address *remote)
{
	// A connection of the pod to itself looks as if it came by the interface of its address.
	if (equal(local, remote) || is_own(remote))
		return SK_PASS;
	if (ctx->local_port == PORT_HBONE)
		return steer(ctx, HBONE, on & CAPTURE_IN ? SK_DROP : SK_PASS);
	if (!(on & CAPTURE_IN) || is_probe(remote))
		return pass();
	return steer(ctx, INBOUND, SK_DROP);
}

SEC("sk_lookup")
int tulle_lookup(struct bpf_sk_lookup *ctx)
{
	struct settings *s = set();
	struct address local, remote;

	if (!s)
		return SK_DROP;
	if (ctx->protocol == IPPROTO_UDP && (ctx->local_port != PORT_DNS || ctx->ingress_ifindex != s->loopback))
		return SK_PASS;
	if (ctx->family == AF_INET) {
		local = mapped(ctx->local_ip4);
		remote = mapped(ctx->remote_ip4);
	} else {
		for (int i = 0; i < 4; i++) {
			local.part[i] = ctx->local_ip6[i];
			remote.part[i] = ctx->remote_ip6[i];
		}
	}
	if (is_loopback(&local))
		return SK_PASS;
	if (is_virtual(ctx->ingress_ifindex) && (s->on & CAPTURE_OUT || !is_own(&local)))
		return steer(ctx, OUTBOUND, SK_DROP);
	if (ctx->ingress_ifindex != s->loopback)
		return from_wire(ctx, s->on, &local, &remote);
	if (is_own(&local))
		return SK_PASS; // the proxy calls the app
	// To somebody else, but on lo: sent here by egress.
	if (ctx->protocol == IPPROTO_UDP)
		return steer(ctx, ctx->family == AF_INET ? DNS_UDP : DNS_UDP6, SK_DROP);
	if (ctx->local_port == PORT_DNS && s->on & CAPTURE_DNS)
		return steer(ctx, ctx->family == AF_INET ? DNS_TCP : DNS_TCP6, SK_DROP);
	return steer(ctx, OUTBOUND, SK_DROP);
}

// What egress knows of a packet.
struct packet {
	struct bpf_sock_tuple tuple;
	__u8 ipv6;
	struct address to;
	__u32 transport; // offset of the transport header
	__u8 protocol;
};

// What parsing comes to.
enum { UNDERSTOOD, NOT_OURS, UNCLEAR };

static __always_inline int parse4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.ihl < 5)
		return UNCLEAR;
	if (ip.frag_off & bpf_htons(0x1fff))
		return NOT_OURS; // a fragment behind the first, which has the ports
	p->protocol = ip.protocol;
	p->transport = ETH_HLEN + 4 * ip.ihl;
	p->to = mapped(ip.daddr);
	p->tuple.ipv4.saddr = ip.saddr;
	p->tuple.ipv4.daddr = ip.daddr;
	return UNDERSTOOD;
}

#define MOST_EXTENSIONS 6

static __always_inline int parse6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr ip;
	__u8 head[4];
	__u8 next;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
		return UNCLEAR;
	__builtin_memcpy(&p->to, &ip.daddr, sizeof(p->to));
	__builtin_memcpy(p->tuple.ipv6.saddr, &ip.saddr, sizeof(ip.saddr));
	__builtin_memcpy(p->tuple.ipv6.daddr, &ip.daddr, sizeof(ip.daddr));
	p->ipv6 = 1;
	p->transport = ETH_HLEN + sizeof(ip);
	next = ip.nexthdr;
	for (int i = 0; i < MOST_EXTENSIONS; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT) {
			p->protocol = next;
			return UNDERSTOOD;
		}
		if (bpf_skb_load_bytes(skb, p->transport, head, sizeof(head)))
			return UNCLEAR;
		if (next == IPPROTO_FRAGMENT && (head[2] || head[3] & 0xf8))
			return NOT_OURS;
		p->transport += next == IPPROTO_FRAGMENT ? 8 : 8 * (head[1] + 1);
		next = head[0];
	}
	return UNCLEAR;
}

static __always_inline int parse(struct __sk_buff *skb, struct packet *p)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse4(skb, p);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse6(skb, p);
	return NOT_OURS;
}

// route_inward marks the packet, so that it is delivered here whatever its destination.
static __always_inline void route_inward(struct __sk_buff *skb)
{
	skb->mark = (skb->mark & ~MARK_MASK) | INWARD_MARK;
	count(INWARD);
}

// inward sends the packet to the pod's own stack, as if it had come by lo.
static __always_inline int inward(struct __sk_buff *skb)
{
	const __u8 nobody[ETH_ALEN] = {}; // lo's hardware address; else the packet would be for another host

	if (bpf_skb_store_bytes(skb, 0, nobody, sizeof(nobody), 0))
		return TCX_DROP;
	route_inward(skb);
	return bpf_redirect(LOOPBACK, BPF_F_INGRESS);
}

// is_proxys tells whether the other end of the connection is in the pod: a socket with an address that isn't the pod's, as only the
// proxy has. A listener would be found for anything.
static __always_inline int is_proxys(struct __sk_buff *skb, struct packet *p, const struct tcphdr *tcp)
{
	struct bpf_sock *other;
	int yes;

	if (p->ipv6) {
		p->tuple.ipv6.sport = tcp->source;
		p->tuple.ipv6.dport = tcp->dest;
		other = bpf_skc_lookup_tcp(skb, &p->tuple, sizeof(p->tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	} else {
		p->tuple.ipv4.sport = tcp->source;
		p->tuple.ipv4.dport = tcp->dest;
		other = bpf_skc_lookup_tcp(skb, &p->tuple, sizeof(p->tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	if (!other)
		return 0;
	yes = other->state != BPF_TCP_LISTEN;
	bpf_sk_release(other);
	return yes;
}

// opens tells the first packet of a connection: older ones stay as they are.
static __always_inline int opens(const struct tcphdr *tcp) { return tcp->syn && !tcp->ack && !tcp->rst && !tcp->fin; }

// forwarded decides about somebody's connection through the pod, which no lookup has seen. As the pod's own it would pass policies.
static __always_inline int forwarded(__u32 on)
{
	if (!(on & CAPTURE_IN))
		return TCX_NEXT;
	count(REFUSED);
	return TCX_DROP;
}

static __always_inline int leaves_tcp(struct __sk_buff *skb, struct packet *p, __u32 on)
{
	struct tcphdr tcp;

	if (bpf_skb_load_bytes(skb, p->transport, &tcp, sizeof(tcp)))
		return on & CAPTURE_OUT ? TCX_DROP : TCX_NEXT;
	if (is_probe(&p->to))
		return TCX_NEXT;
	if (opens(&tcp) && skb->ingress_ifindex && skb->ingress_ifindex != LOOPBACK)
		return forwarded(on);
	if (opens(&tcp))
		return on & CAPTURE_OUT ? inward(skb) : TCX_NEXT;
	return is_proxys(skb, p, &tcp) ? inward(skb) : TCX_NEXT;
}

static __always_inline int leaves_udp(struct __sk_buff *skb, struct packet *p, __u32 on)
{
	struct udphdr udp;

	if (!(on & CAPTURE_DNS) || bpf_skb_load_bytes(skb, p->transport, &udp, sizeof(udp)) || udp.dest != bpf_htons(PORT_DNS))
		return TCX_NEXT;
	return inward(skb);
}

SEC("tc")
int tulle_egress(struct __sk_buff *skb)
{
	struct settings *s = set();
	struct packet p = {};
	int parsed;

	if (!s)
		return TCX_DROP;
	if ((skb->mark & MARK_MASK) == PROXY_MARK)
		return TCX_NEXT;
	parsed = parse(skb, &p);
	if (parsed == UNCLEAR)
		return s->on & CAPTURE_OUT ? TCX_DROP : TCX_NEXT; // it may be TCP
	if (parsed == NOT_OURS)
		return TCX_NEXT;
	if (p.protocol == IPPROTO_TCP)
		return leaves_tcp(skb, &p, s->on);
	if (p.protocol == IPPROTO_UDP)
		return leaves_udp(skb, &p, s->on);
	return TCX_NEXT;
}

SEC("tc")
int tulle_virtual(struct __sk_buff *skb)
{
	struct settings *s = set();
	struct packet p = {};
	struct tcphdr tcp;
	int parsed;

	if (!s)
		return TCX_DROP;
	parsed = parse(skb, &p);
	if (parsed == NOT_OURS || (parsed == UNDERSTOOD && p.protocol != IPPROTO_TCP))
		return TCX_NEXT;
	if (parsed == UNCLEAR || bpf_skb_load_bytes(skb, p.transport, &tcp, sizeof(tcp)))
		return s->on & CAPTURE_OUT ? TCX_DROP : TCX_NEXT;
	if (opens(&tcp) ? s->on & CAPTURE_OUT : is_proxys(skb, &p, &tcp))
		route_inward(skb);
	return TCX_NEXT;
}
