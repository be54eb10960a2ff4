package dns

import (
	"context"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func newForwarder() *forwarder { return &forwarder{cache: newCache(podEntries, podBytes)} }

// forwarded asks for an address of a.example, and returns the reply as "CODE record, record".
func (f *forwarder) forwarded(t *testing.T, servers ...netip.AddrPort) string {
	t.Helper()
	r, err := f.forward(t.Context(), servers, new(dns.Msg).SetQuestion("a.example.", dns.TypeA), func(time.Duration, error) {})
	if err != nil {
		return "error: " + err.Error()
	}
	text := dns.RcodeToString[r.Rcode]
	for _, record := range r.Answer {
		text += " " + strings.TrimPrefix(record.String(), record.Header().String())
	}
	if r.Truncated {
		text += " cut"
	}
	return text
}

func code(rcode int) func(*dns.Msg, string) *dns.Msg {
	return func(q *dns.Msg, _ string) *dns.Msg { return new(dns.Msg).SetRcode(q, rcode) }
}

const anyPort = "127.0.0.1:0"

func TestOtherServersAreAsked(t *testing.T) {
	good := zone(t, "a.example. 60 IN A 10.0.0.1")
	silent := func(*dns.Msg, string) *dns.Msg { return nil }
	cutUDP := func(q *dns.Msg, protocol string) *dns.Msg {
		r := good(q, protocol)
		if protocol == "udp" {
			r.Answer, r.Truncated = nil, true
		}
		return r
	}
	noEDNS := func(q *dns.Msg, protocol string) *dns.Msg {
		if q.IsEdns0() != nil {
			return new(dns.Msg).SetRcodeFormatError(q)
		}
		return good(q, protocol)
	}
	other := func(q *dns.Msg, protocol string) *dns.Msg {
		r := good(q, protocol)
		r.Question[0].Name = "b.example."
		return r
	}
	type handlers = []func(*dns.Msg, string) *dns.Msg
	for _, test := range []struct {
		what    string
		servers handlers
		want    string
		asked   [][]string // of each server
	}{
		{"the first answers", handlers{good, good}, "NOERROR 10.0.0.1", [][]string{{"udp"}, nil}},
		{"no such name", handlers{zone(t), good}, "NXDOMAIN", [][]string{{"udp"}, nil}},
		{"the first fails", handlers{code(dns.RcodeServerFailure), good}, "NOERROR 10.0.0.1", [][]string{{"udp"}, {"udp"}}},
		{"the first refuses", handlers{code(dns.RcodeRefused), good}, "NOERROR 10.0.0.1", [][]string{{"udp"}, {"udp"}}},
		{"all fail", handlers{code(dns.RcodeServerFailure)}, "SERVFAIL", [][]string{{"udp", "udp"}}},
		{"the first is silent", handlers{silent, good}, "NOERROR 10.0.0.1", [][]string{{"udp"}, {"udp"}}},
		{"too long for UDP", handlers{cutUDP}, "NOERROR 10.0.0.1", [][]string{{"udp", "tcp"}}},
		{"no EDNS", handlers{noEDNS}, "NOERROR 10.0.0.1", [][]string{{"udp", "udp"}}},
		{"an answer to another question", handlers{other, good}, "NOERROR 10.0.0.1", [][]string{{"udp"}, {"udp"}}},
	} {
		t.Run(test.what, func(t *testing.T) {
			t.Parallel()
			var servers []netip.AddrPort
			var ups []*upstream
			for _, handle := range test.servers {
				u := newUpstream(t, nil, anyPort, handle)
				ups, servers = append(ups, u), append(servers, u.addr)
			}
			if got := newForwarder().forwarded(t, servers...); got != test.want {
				t.Errorf("answer %q, want %q", got, test.want)
			}
			for i, u := range ups {
				var protocols []string
				for _, q := range u.questions() {
					protocol, _, _ := strings.Cut(q, " ")
					protocols = append(protocols, protocol)
				}
				if !reflect.DeepEqual(protocols, test.asked[i]) {
					t.Errorf("server %d was asked %q, want %q", i, protocols, test.asked[i])
				}
			}
		})
	}
}

func TestAServerThatFailsIsAskedLast(t *testing.T) {
	dead := closedPort(t)
	good := newUpstream(t, nil, anyPort, zone(t, "a.example. 0 IN A 10.0.0.1"))
	f := newForwarder()
	if got := f.forwarded(t, dead, good.addr); got != "NOERROR 10.0.0.1" {
		t.Errorf("answer %q", got)
	}
	if order := f.order([]netip.AddrPort{dead, good.addr}); order[0] != good.addr || order[1] != dead || len(order) != 4 {
		t.Errorf("order is %v", order)
	}
}

func TestNoServerAnswers(t *testing.T) {
	f := newForwarder()
	if got := f.forwarded(t); !strings.Contains(got, "/etc/resolv.conf") {
		t.Errorf("without servers: %q", got)
	}
	dead := closedPort(t)
	if got := f.forwarded(t, dead); !strings.Contains(got, dead.String()) || !strings.Contains(got, "refused") {
		t.Errorf("with a dead server: %q", got)
	}
}

// closedPort is where nobody listens.
func closedPort(t *testing.T) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// A forger who doesn't know the question's number can't answer it, and too many tries end the wait.
func TestForgedAnswersAreNotTaken(t *testing.T) {
	for _, test := range []struct {
		what    string
		forged  int
		genuine bool
		want    string
	}{
		{"some, then the genuine one", 5, true, "NOERROR 10.0.0.1"},
		{"a flood", 2 * maxForeign, false, "forging"},
	} {
		t.Run(test.what, func(t *testing.T) {
			conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			var serving sync.WaitGroup
			defer serving.Wait()
			defer conn.Close()
			serving.Go(func() {
				buffer := make([]byte, 4096)
				for {
					n, from, err := conn.ReadFromUDPAddrPort(buffer)
					if err != nil {
						return
					}
					r := zone(t, "a.example. 60 IN A 10.0.0.1")(unpacked(t, buffer[:n]), "udp")
					genuine := packed(t, r)
					for range test.forged {
						r.Id++
						conn.WriteToUDPAddrPort(packed(t, r), from)
					}
					if test.genuine {
						conn.WriteToUDPAddrPort(genuine, from)
					}
				}
			})
			if got := newForwarder().forwarded(t, conn.LocalAddr().(*net.UDPAddr).AddrPort()); !strings.Contains(got, test.want) {
				t.Errorf("answer %q, want %q", got, test.want)
			}
		})
	}
}

func TestEqualQuestionsAtTheSameTimeAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(podEntries, podBytes)
		var asked atomic.Int32
		var group sync.WaitGroup
		for i := range 50 {
			group.Go(func() {
				q := new(dns.Msg).SetQuestion([]string{"a.example.", "A.Example."}[i%2], dns.TypeA)
				r, err := c.get(t.Context(), keyOf(q, ""), func() (*dns.Msg, error) {
					asked.Add(1)
					time.Sleep(time.Second)
					return reply(t, "a.example. 30 IN A 10.0.0.1"), nil
				})
				if err != nil || len(r.Answer) != 1 {
					t.Errorf("%v, %v", r, err)
				}
			})
		}
		group.Wait()
		if asked.Load() != 1 {
			t.Errorf("asked %d times", asked.Load())
		}
	})
}

// The pod whose question is on its way for several may go: the others' questions live on.
func TestAQuestionOutlivesWhoAskedItFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(podEntries, podBytes)
		key := keyOf(new(dns.Msg).SetQuestion("a.example.", dns.TypeA), "")
		var group sync.WaitGroup
		group.Go(func() {
			if _, err := c.get(t.Context(), key, func() (*dns.Msg, error) { time.Sleep(time.Second); return nil, errAbandoned }); err == nil {
				t.Error("an abandoned question is answered")
			}
		})
		synctest.Wait()
		r, err := c.get(t.Context(), key, func() (*dns.Msg, error) { return reply(t, "a.example. 30 IN A 10.0.0.1"), nil })
		if err != nil || len(r.Answer) != 1 {
			t.Errorf("%v, %v", r, err)
		}
		group.Go(func() {
			c.get(t.Context(), cacheKey{name: "b"}, func() (*dns.Msg, error) { time.Sleep(time.Second); return nil, errSpoofed })
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := c.get(ctx, cacheKey{name: "b"}, nil); err != context.DeadlineExceeded {
			t.Errorf("whoever can't wait gets %v", err)
		}
		group.Wait()
	})
}

// reply is an answer to A a.example., or that there is none if the only record is a SOA.
func reply(t testing.TB, texts ...string) *dns.Msg {
	r := new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("a.example.", dns.TypeA))
	for _, text := range texts {
		record := mustRR(t, text)
		if record.Header().Rrtype == dns.TypeSOA {
			r.Ns = append(r.Ns, record)
		} else {
			r.Answer = append(r.Answer, record)
		}
	}
	return r
}

func TestAnswersAreKeptAsLongAsTheySay(t *testing.T) {
	withCode := func(r *dns.Msg, code int) *dns.Msg { r.Rcode = code; return r }
	cut := reply(t, "a.example. 60 IN A 10.0.0.1")
	cut.Truncated = true
	for _, test := range []struct {
		what string
		msg  *dns.Msg
		want time.Duration
	}{
		{"an address", reply(t, "a.example. 60 IN A 10.0.0.1"), time.Minute},
		{"the shortest counts", reply(t, "a.example. 60 IN CNAME b.example.", "b.example. 5 IN A 10.0.0.1"), 5 * time.Second},
		{"not at all", reply(t, "a.example. 0 IN A 10.0.0.1"), 0},
		{"not for ever", reply(t, "a.example. 999999 IN A 10.0.0.1"), time.Hour},
		{"no address, by the zone's minimum", reply(t, "example. 60 IN SOA ns. admin. 1 2 3 4 20"), 20 * time.Second},
		{"no address, by the SOA's own TTL", reply(t, "example. 7 IN SOA ns. admin. 1 2 3 4 20"), 7 * time.Second},
		{"an alias of nothing", reply(t, "a.example. 60 IN CNAME b.example.", "example. 60 IN SOA ns. admin. 1 2 3 4 20"), 20 * time.Second},
		{"no name", withCode(reply(t, "example. 60 IN SOA ns. admin. 1 2 3 4 20"), dns.RcodeNameError), 20 * time.Second},
		{"no name, not for long", withCode(reply(t, "example. 9999 IN SOA ns. admin. 1 2 3 4 9999"), dns.RcodeNameError), 5 * time.Minute},
		{"no name and no zone", withCode(reply(t), dns.RcodeNameError), 0},
		{"a failure", withCode(reply(t, "example. 60 IN SOA ns. admin. 1 2 3 4 20"), dns.RcodeServerFailure), 0},
		{"a cut answer", cut, 0},
	} {
		t.Run(test.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, asked := newCache(podEntries, podBytes), 0
				key := keyOf(test.msg, "")
				get := func() *dns.Msg {
					r, err := c.get(t.Context(), key, func() (*dns.Msg, error) { asked++; return test.msg.Copy(), nil })
					if err != nil {
						t.Fatal(err)
					}
					return r
				}
				get()
				if test.want > 0 {
					time.Sleep(test.want - time.Second)
					r := get()
					for record := range records(r) {
						if ttl := time.Duration(record.Header().Ttl) * time.Second; ttl < time.Second {
							t.Errorf("%v is left of %s", ttl, record)
						}
					}
					if asked != 1 {
						t.Error("it isn't kept")
					}
				}
				time.Sleep(time.Second)
				get()
				if asked != 2 {
					t.Errorf("asked %d times", asked)
				}
			})
		})
	}
}

func TestCacheKeepsApartWhatDiffers(t *testing.T) {
	base := new(dns.Msg).SetQuestion("a.example.", dns.TypeA)
	seen := map[cacheKey]string{keyOf(base, "s"): "base"}
	for what, change := range map[string]func(*dns.Msg){
		"name":   func(m *dns.Msg) { m.Question[0].Name = "b.example." },
		"type":   func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
		"class":  func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"RD":     func(m *dns.Msg) { m.RecursionDesired = false },
		"AD":     func(m *dns.Msg) { m.AuthenticatedData = true },
		"CD":     func(m *dns.Msg) { m.CheckingDisabled = true },
		"DNSSEC": func(m *dns.Msg) { m.SetEdns0(1232, true) },
	} {
		msg := base.Copy()
		change(msg)
		if other, found := seen[keyOf(msg, "s")]; found {
			t.Errorf("%s and %s are the same", what, other)
		}
		seen[keyOf(msg, "s")] = what
	}
	if keyOf(base, "s") == keyOf(base, "other") {
		t.Error("the servers make no difference")
	}
	upper := base.Copy()
	upper.Question[0].Name = "A.EXAMPLE."
	if keyOf(upper, "s") != keyOf(base, "s") {
		t.Error("case makes a difference")
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(100, 10_000)
	for i := range 1000 {
		name := strings.Repeat("x", i%50+1) + ".example."
		key := cacheKey{name: name, qtype: uint16(i)}
		if _, err := c.get(t.Context(), key, func() (*dns.Msg, error) { return reply(t, "a.example. 60 IN A 10.0.0.1"), nil }); err != nil {
			t.Fatal(err)
		}
	}
	sum := 0
	for key, e := range c.entries {
		sum += cost(key, e)
	}
	if len(c.entries) > 100 || len(c.entries) < 50 || c.bytes != sum || sum > 10_000 || len(c.calls) != 0 {
		t.Errorf("%d entries of %d bytes (counted %d), %d calls", len(c.entries), sum, c.bytes, len(c.calls))
	}
}
