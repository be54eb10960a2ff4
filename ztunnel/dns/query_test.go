package dns

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// packed returns the query's bytes.
func packed(t testing.TB, msg *dns.Msg) []byte {
	t.Helper()
	wire, err := msg.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

func unpacked(t testing.TB, wire []byte) *dns.Msg {
	t.Helper()
	msg := new(dns.Msg)
	if err := msg.Unpack(wire); err != nil {
		t.Fatalf("%x: %v", wire, err)
	}
	return msg
}

func addresses(n int) answer {
	var a answer
	for i := range n {
		a.addrs = append(a.addrs, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	return a
}

func TestReplySaysWhatTheQueryDid(t *testing.T) {
	for _, test := range []struct {
		what   string
		change func(*dns.Msg)
		udp    bool
		n      int // addresses in the answer
		size   int // of the reply's OPT; 0: has none
		do     bool
		most   int // bytes of the reply
		cut    bool
	}{
		{"plain", func(*dns.Msg) {}, true, 5, 0, false, 512, false},
		{"plain, too long", func(*dns.Msg) {}, true, 100, 0, false, 512, true},
		{"EDNS", func(m *dns.Msg) { m.SetEdns0(1232, false) }, true, 50, 1232, false, 1232, false},
		{"EDNS, too long", func(m *dns.Msg) { m.SetEdns0(1232, false) }, true, 100, 1232, false, 1232, true},
		{"EDNS with less than 512 bytes", func(m *dns.Msg) { m.SetEdns0(100, false) }, true, 20, 512, false, 512, false},
		{"EDNS with DNSSEC", func(m *dns.Msg) { m.SetEdns0(4096, true) }, true, 200, 4096, true, 4096, false},
		{"TCP", func(*dns.Msg) {}, false, 1000, 0, false, 65535, false},
		{"TCP with EDNS", func(m *dns.Msg) { m.SetEdns0(512, false) }, false, 1000, 512, false, 65535, false},
		{"TCP, too long", func(*dns.Msg) {}, false, 10000, 0, false, 65535, true},
	} {
		t.Run(test.what, func(t *testing.T) {
			msg := new(dns.Msg).SetQuestion("Many.example.", dns.TypeA)
			test.change(msg)
			q, _ := parse(packed(t, msg), test.udp)
			wire := q.pack(q.fromMesh(addresses(test.n)))
			r := unpacked(t, wire)
			if r.Id != msg.Id || r.Question[0] != msg.Question[0] || !r.Response || !r.RecursionDesired || !r.RecursionAvailable || !r.Authoritative {
				t.Errorf("reply is %v", r)
			}
			if len(wire) > test.most || r.Truncated != test.cut || len(r.Answer) == 0 || (!test.cut && len(r.Answer) != test.n) {
				t.Errorf("%d bytes with %d records, cut: %v", len(wire), len(r.Answer), r.Truncated)
			}
			size, do := 0, false
			if opt := r.IsEdns0(); opt != nil {
				size, do = int(opt.UDPSize()), opt.Do()
			}
			if size != test.size || do != test.do {
				t.Errorf("EDNS of %d bytes, DNSSEC %v", size, do)
			}
		})
	}
}

func TestWhatIsNoQuestionIsRefused(t *testing.T) {
	question := func() *dns.Msg { return new(dns.Msg).SetQuestion("a.example.", dns.TypeA) }
	with := func(change func(*dns.Msg)) []byte {
		msg := question()
		change(msg)
		return packed(t, msg)
	}
	for _, test := range []struct {
		what string
		data []byte
		want string
	}{
		{"nothing", nil, "nothing"},
		{"half a header", make([]byte, 11), "nothing"},
		{"a response", with(func(m *dns.Msg) { m.Response = true }), "nothing"},
		{"no question", make([]byte, 12), "FORMERR"},
		{"two questions", with(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), "FORMERR"},
		{"a cut question", packed(t, question())[:20], "FORMERR"},
		{"an update", with(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), "NOTIMP"},
		{"a notification", with(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), "NOTIMP"},
		{"a zone", with(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }), "REFUSED"},
		{"a newer EDNS", with(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), "BADVERS"},
	} {
		t.Run(test.what, func(t *testing.T) {
			q, refusal := parse(test.data, true)
			if q != nil {
				t.Fatal("it is taken for a question")
			}
			got := "nothing"
			if refusal != nil {
				r := unpacked(t, refusal)
				if !r.Response || refusal[0] != test.data[0] || refusal[1] != test.data[1] {
					t.Errorf("the refusal is %v", r)
				}
				got = dns.RcodeToString[r.Rcode]
				if r.Rcode == dns.RcodeBadVers { // shares its number with BADSIG
					got = "BADVERS"
				}
			}
			if got != test.want {
				t.Errorf("answered with %s, want %s", got, test.want)
			}
		})
	}
}

func TestRepliesOfOtherServersArePassedOn(t *testing.T) {
	q, _ := parse(packed(t, new(dns.Msg).SetQuestion("A.example.", dns.TypeA).SetEdns0(1232, true)), true)
	up := new(dns.Msg).SetQuestion("a.example.", dns.TypeA)
	up.Response, up.Authoritative, up.AuthenticatedData, up.Rcode = true, true, true, dns.RcodeNameError
	up.Ns = []dns.RR{mustRR(t, "example. 60 IN SOA ns. admin. 1 2 3 4 5")}
	up.SetEdns0(4096, false)
	up.IsEdns0().Option = []dns.EDNS0{
		&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeBlocked, ExtraText: "blocked"},
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"},
	}
	r := unpacked(t, q.pack(q.fromUpstream(up)))
	if r.Id != q.msg.Id || r.Question[0].Name != "A.example." || r.Rcode != dns.RcodeNameError || !r.Authoritative || !r.AuthenticatedData || len(r.Ns) != 1 {
		t.Errorf("passed on as %v", r)
	}
	opt := r.IsEdns0()
	if opt.UDPSize() != 1232 || !opt.Do() || len(opt.Option) != 1 || opt.Option[0].Option() != dns.EDNS0EDE {
		t.Errorf("EDNS is passed on as %v", opt)
	}

	plain := newQuery(t, "a.example.", dns.TypeA)
	up.Rcode = dns.RcodeBadCookie
	if r := unpacked(t, plain.pack(plain.fromUpstream(up))); r.Rcode != dns.RcodeServerFailure || r.IsEdns0() != nil {
		t.Errorf("a client without EDNS gets %v", r)
	}
}

func mustRR(t testing.TB, text string) dns.RR {
	t.Helper()
	record, err := dns.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

// Whatever a client sends, the reply is a message that belongs to it, within its limits.
func FuzzQuery(f *testing.F) {
	for _, name := range []string{"details.ns1.svc.cluster.local.", "www.example.com.ns1.svc.cluster.local.", "a.wild.example.com.", `x\.y.example.`, "."} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeAXFR} {
			f.Add(packed(f, new(dns.Msg).SetQuestion(name, kind)), true)
			f.Add(packed(f, new(dns.Msg).SetQuestion(name, kind).SetEdns0(600, true)), false)
		}
	}
	f.Add(packed(f, new(dns.Msg).SetUpdate("example.")), true)
	f.Add([]byte{}, true)
	v := fromNS1(f)
	f.Fuzz(func(t *testing.T, data []byte, udp bool) {
		q, reply := parse(data, udp)
		limit := 512
		if q != nil {
			limit = q.size
			r := q.reply(dns.RcodeServerFailure)
			if name, is4, ok := q.asks(); ok {
				if a, found := v.lookup(name, is4); found {
					r = q.fromMesh(a)
				}
			}
			if reply = q.pack(r); reply == nil {
				t.Fatal("a question is not answered")
			}
		}
		if reply == nil {
			return
		}
		r := new(dns.Msg)
		if err := r.Unpack(reply); err != nil {
			t.Fatalf("reply %x: %v", reply, err)
		}
		if !r.Response || reply[0] != data[0] || reply[1] != data[1] || (udp && len(reply) > max(512, limit)) || len(reply) > 65535 {
			t.Errorf("%d bytes: %v", len(reply), r)
		}
	})
}

// Whatever a server sends, what is taken is about the question, and can be kept and passed on.
func FuzzUpstreamResponse(f *testing.F) {
	request := new(dns.Msg).SetQuestion("a.example.", dns.TypeA)
	request.Id = 0x1234
	for i, records := range [][]string{{"a.example. 30 IN A 10.0.0.1"}, {"a.example. 30 IN CNAME b.example.", "b.example. 60 IN A 10.0.0.2"}, nil} {
		r := new(dns.Msg).SetReply(request)
		for _, text := range records {
			r.Answer = append(r.Answer, mustRR(f, text))
		}
		if i == 2 {
			r.Rcode = dns.RcodeNameError
			r.Ns = []dns.RR{mustRR(f, "example. 60 IN SOA ns. admin. 1 2 3 4 5")}
			r.SetEdns0(1232, false)
		}
		f.Add(packed(f, r))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		reply, err := accept(request, data)
		if err != nil {
			return
		}
		if reply.Id != request.Id || len(reply.Question) != 1 || reply.Question[0].Qtype != dns.TypeA {
			t.Errorf("taken for an answer: %v", reply)
		}
		if ttl := lifetime(reply); ttl < 0 || ttl > longestTTL {
			t.Errorf("is kept for %v", ttl)
		}
		for _, udp := range []bool{true, false} {
			q, _ := parse(packed(t, new(dns.Msg).SetQuestion("a.example.", dns.TypeA)), udp)
			wire := q.pack(q.fromUpstream(reply.Copy()))
			if r := new(dns.Msg); r.Unpack(wire) != nil || r.Id != q.msg.Id || len(wire) > q.size {
				t.Errorf("passed on as %x", wire)
			}
		}
	})
}

func TestResolvConf(t *testing.T) {
	for _, test := range []struct{ what, text, want string }{
		{"Kubernetes' own", "search ns1.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
			"[10.96.0.10:53] [ns1.svc.cluster.local svc.cluster.local cluster.local] 5"},
		{"comments and spaces", "# a\n;b\n  nameserver\t10.0.0.1  # c\nnameserver\n", "[10.0.0.1:53] [] 1"},
		{"three servers at most", "nameserver 10.0.0.1\nnameserver fd00::1\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n", "[10.0.0.1:53 [fd00::1]:53 10.0.0.3:53] [] 1"},
		{"no addresses", "nameserver dns.example\nnameserver 0.0.0.0\nnameserver 10.0.0.1", "[10.0.0.1:53] [] 1"},
		{"the last search counts", "search a.example\ndomain b.example c.example\nsearch D.example. .\n", "[] [d.example] 1"},
		{"ndots out of range", "options rotate ndots:99\n", "[] [] 15"},
		{"ndots that is no number", "options ndots:x\n", "[] [] 1"},
		{"empty", "", "[] [] 1"},
	} {
		t.Run(test.what, func(t *testing.T) {
			c := ParseResolvConf(test.text)
			if got := fmt.Sprint(c.Servers, c.Search, c.Ndots); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add("search a b\nnameserver 10.0.0.1\noptions ndots:5")
	f.Fuzz(func(t *testing.T, text string) {
		c := ParseResolvConf(text)
		if len(c.Servers) > maxServers || len(c.Search) > maxSearch || c.Ndots < 0 || c.Ndots > mostNdots {
			t.Errorf("%+v", c)
		}
	})
}

// What was signed as a whole can't be cut; the client asks again by TCP.
func TestSignedReplyThatIsTooLargeIsLeftOut(t *testing.T) {
	q, _ := parse(packed(t, new(dns.Msg).SetQuestion("a.example.", dns.TypeA)), true)
	signed := new(dns.Msg).SetReply(q.msg)
	for i := range 100 {
		signed.Answer = append(signed.Answer, mustRR(t, fmt.Sprintf("a.example. 30 IN A 10.0.0.%d", i)))
	}
	signed.SetTsig("key.example.", dns.HmacSHA256, 300, 1)
	wire := q.pack(q.fromUpstream(signed))
	r := new(dns.Msg)
	if err := r.Unpack(wire); err != nil {
		t.Fatal(err)
	}
	if len(wire) > dns.MinMsgSize || !r.Truncated || r.Id != q.msg.Id || len(r.Answer) > 0 {
		t.Errorf("%d bytes, %v; want an empty reply with TC", len(wire), r)
	}
}
