package dns

import (
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// upstream is a real name server, over UDP and TCP, that counts its questions.
type upstream struct {
	addr netip.AddrPort

	mu    sync.Mutex
	asked []string // "udp A a.example."
}

// newUpstream serves until the test ends. handle returns the reply, or nil for none.
func newUpstream(t *testing.T, netns *socket.Netns, addr string, handle func(q *dns.Msg, protocol string) *dns.Msg) *upstream {
	t.Helper()
	u := &upstream{}
	at := netip.MustParseAddrPort(addr)
	tcp, err := netns.Listen(socket.ListenConfig{Addr: at})
	if err != nil {
		t.Fatal(err)
	}
	u.addr = socket.Unmap(tcp.Addr())
	udp, err := netns.ListenUDP(socket.ListenConfig{Addr: u.addr})
	if err != nil {
		t.Fatal(err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		protocol := "udp"
		if _, isTCP := w.RemoteAddr().(*net.TCPAddr); isTCP {
			protocol = "tcp"
		}
		u.mu.Lock()
		u.asked = append(u.asked, protocol+" "+dns.TypeToString[q.Question[0].Qtype]+" "+q.Question[0].Name)
		u.mu.Unlock()
		if r := handle(q, protocol); r != nil {
			_ = w.WriteMsg(r)
		}
	})
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: handler}, {Listener: tcp, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go s.ActivateAndServe()
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return u
}

func (u *upstream) questions() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.asked...)
}

// zone answers with the records of the name that is asked for, and with NXDOMAIN where there are none.
func zone(t testing.TB, texts ...string) func(*dns.Msg, string) *dns.Msg {
	var records []dns.RR
	for _, text := range texts {
		records = append(records, mustRR(t, text))
	}
	return func(q *dns.Msg, _ string) *dns.Msg {
		r := new(dns.Msg).SetReply(q)
		r.RecursionAvailable = true
		r.Rcode = dns.RcodeNameError
		for _, record := range records {
			if record.Header().Name == dns.CanonicalName(q.Question[0].Name) {
				r.Rcode = dns.RcodeSuccess
				if record.Header().Rrtype == q.Question[0].Qtype {
					r.Answer = append(r.Answer, record)
				}
			}
		}
		if len(r.Answer) == 0 {
			r.Ns = []dns.RR{mustRR(t, ". 60 IN SOA ns. admin. 1 2 3 4 60")}
		}
		return r
	}
}
