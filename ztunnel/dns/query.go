package dns

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/miekg/dns"
)

const (
	answerTTL  = 30   // seconds, of names of the mesh
	headerSize = 12   // RFC 1035, section 4.1.1
	ipv4Record = 16   // bytes of an address record whose name is compressed
	ipv6Record = 28   // the same
	extraSpace = 1024 // bytes, more than everything but the addresses needs
)

// query is a question as a client of ours sent it.
type query struct {
	msg  *dns.Msg // with exactly one question
	udp  bool
	size int // of the largest answer that the client takes, in bytes
}

// parse reads a query. If it can't be answered in earnest, query is nil and refusal is what to send: nothing at all for
// what isn't a query, since two servers must not send errors to each other for ever.
func parse(data []byte, udp bool) (q *query, refusal []byte) {
	if len(data) < headerSize || data[2]&0x80 != 0 {
		return nil, nil
	}
	msg := new(dns.Msg)
	if err := msg.Unpack(data); err != nil || len(msg.Question) != 1 {
		return nil, refuseUnread(data, dns.RcodeFormatError)
	}
	q = &query{msg: msg, udp: udp, size: dns.MaxMsgSize}
	opt := msg.IsEdns0()
	if udp {
		q.size = dns.MinMsgSize
		if opt != nil {
			q.size = max(q.size, int(opt.UDPSize()))
		}
	}
	switch question := msg.Question[0]; {
	case msg.Opcode != dns.OpcodeQuery:
		return nil, q.pack(q.reply(dns.RcodeNotImplemented))
	case opt != nil && opt.Version() != 0:
		return nil, q.pack(q.reply(dns.RcodeBadVers))
	case question.Qtype == dns.TypeAXFR || question.Qtype == dns.TypeIXFR:
		return nil, q.pack(q.reply(dns.RcodeRefused)) // zones have as many messages as they like
	}
	return q, nil
}

// refuseUnread answers a message of which only the header is sure.
func refuseUnread(data []byte, rcode int) []byte {
	reply := make([]byte, headerSize)
	copy(reply, data[:4])
	reply[2] |= 0x80 // a response
	reply[3] = byte(rcode)
	return reply
}

func (q *query) question() dns.Question { return q.msg.Question[0] }

// reply begins an answer of our own: to everything about the transport it says what the query did.
func (q *query) reply(rcode int) *dns.Msg {
	r := new(dns.Msg).SetRcode(q.msg, rcode)
	r.RecursionAvailable = true
	q.addOPT(r)
	return r
}

// addOPT adds the answer's half of EDNS if the client speaks it (RFC 6891, section 6.1.1).
func (q *query) addOPT(r *dns.Msg, options ...dns.EDNS0) {
	opt := q.msg.IsEdns0()
	if opt == nil {
		return
	}
	r.SetEdns0(max(opt.UDPSize(), dns.MinMsgSize), opt.Do())
	r.IsEdns0().Option = options
}

// asks tells whether the question is for addresses, which the mesh may know, and of which family.
func (q *query) asks() (name string, is4, ok bool) {
	question := q.question()
	if question.Qclass != dns.ClassINET || (question.Qtype != dns.TypeA && question.Qtype != dns.TypeAAAA) {
		return "", false, false
	}
	name, ok = bare(question.Name)
	return name, question.Qtype == dns.TypeA, ok
}

// fromMesh makes the reply of an answer from the mesh, with the addresses in random order and no more than could fit.
func (q *query) fromMesh(a answer) *dns.Msg {
	r := q.reply(dns.RcodeSuccess)
	r.Authoritative = true
	question := q.question()
	owner := question.Name
	if a.canonical != "" {
		owner = dns.Fqdn(a.canonical)
		r.Answer = append(r.Answer, &dns.CNAME{Hdr: header(question.Name, dns.TypeCNAME), Target: owner})
	}
	rand.Shuffle(len(a.addrs), func(i, j int) { a.addrs[i], a.addrs[j] = a.addrs[j], a.addrs[i] })
	each := ipv4Record
	if question.Qtype == dns.TypeAAAA {
		each = ipv6Record
	}
	for _, addr := range a.addrs[:min(len(a.addrs), (q.size+extraSpace)/each)] {
		r.Answer = append(r.Answer, addressRecord(owner, addr))
	}
	return r
}

func addressRecord(owner string, addr netip.Addr) dns.RR {
	if addr.Is4() {
		return &dns.A{Hdr: header(owner, dns.TypeA), A: addr.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(owner, dns.TypeAAAA), AAAA: addr.AsSlice()}
}

func header(owner string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: kind, Class: dns.ClassINET, Ttl: answerTTL}
}

// fromUpstream makes the reply of another server's, which it may change: everything is passed on but what belongs to the
// hop between us and that server.
func (q *query) fromUpstream(r *dns.Msg) *dns.Msg {
	var errors []dns.EDNS0
	rest := r.Extra[:0]
	for _, record := range r.Extra {
		opt, isOPT := record.(*dns.OPT)
		if !isOPT {
			rest = append(rest, record)
			continue
		}
		for _, option := range opt.Option {
			if option.Option() == dns.EDNS0EDE {
				errors = append(errors, option)
			}
		}
	}
	r.Extra = rest
	r.Id, r.Question, r.RecursionDesired = q.msg.Id, q.msg.Question, q.msg.RecursionDesired
	if r.Rcode > 0xf && q.msg.IsEdns0() == nil {
		r.Rcode = dns.RcodeServerFailure // the client couldn't read such a code
	}
	q.addOPT(r, errors...)
	return r
}

// pack writes a reply within the size that the client takes. What doesn't fit is left out, and TC says so.
func (q *query) pack(r *dns.Msg) []byte {
	r.Truncate(q.size)
	r.Compress = true
	data, err := r.Pack()
	switch {
	case err != nil:
		return q.headerOnly(dns.RcodeServerFailure, false)
	case len(data) > q.size: // signed replies are not cut
		return q.headerOnly(r.Rcode, true)
	}
	return data
}

// headerOnly is what fits always. The question is left out, since what can't be written may be in there.
func (q *query) headerOnly(rcode int, truncated bool) []byte {
	data := make([]byte, headerSize)
	binary.BigEndian.PutUint16(data, q.msg.Id)
	data[2], data[3] = 0x80|byte(q.msg.Opcode&0xf)<<3, byte(rcode&0xf)
	if truncated {
		data[2] |= 0x02
	}
	return data
}
