package redirect_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// nameServer answers every datagram and every connection with its name, until the test ends.
func nameServer(t *testing.T, ns *netns.Namespace, name string, mark uint32, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		cfg := socket.ListenConfig{Addr: netip.MustParseAddrPort(addr), Mark: mark, Transparent: mark != 0}
		udp, err := ns.ListenUDP(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { udp.Close() })
		tcp, err := ns.Listen(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tcp.Close() })
		if mark != 0 {
			under.share(t, ns, udp, true)
			under.share(t, ns, tcp, false)
		}
		go func() {
			for buffer := make([]byte, 100); ; {
				_, from, to, err := socket.ReadFrom(udp, buffer)
				if err != nil {
					return
				}
				sayAs(t, ns, udp, to, from, name)
			}
		}()
		go func() {
			for {
				conn, err := tcp.AcceptTCP()
				if err != nil {
					return
				}
				conn.Write([]byte(name))
				conn.Close()
			}
		}()
	}
}

// sayAs answers a datagram from where it was sent to.
func sayAs(t *testing.T, ns *netns.Namespace, socketOf *net.UDPConn, asked, to netip.AddrPort, text string) {
	if !asked.IsValid() || asked == socketOf.LocalAddr().(*net.UDPAddr).AddrPort() {
		socketOf.WriteToUDPAddrPort([]byte(text), to)
		return
	}
	conn, err := ns.ListenUDP(socket.ListenConfig{Addr: asked, Mark: socket.Mark, Transparent: true, ReusePort: true})
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	conn.WriteToUDPAddrPort([]byte(text), to)
}

// question returns who answers a datagram or a connection.
func question(t *testing.T, ns *netns.Namespace, protocol, to string, mark uint32) string {
	t.Helper()
	var conn net.Conn
	var err error
	if protocol == "udp" {
		conn, err = ns.DialUDP(netip.MustParseAddrPort(to), mark)
	} else {
		conn, err = ns.Dial(t.Context(), netip.MustParseAddrPort(to), socket.DialConfig{Mark: mark})
	}
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if protocol == "udp" {
		conn.Write([]byte("who?"))
	}
	buffer := make([]byte, 100)
	n, err := conn.Read(buffer)
	if err != nil {
		return err.Error()
	}
	return string(buffer[:n])
}

func TestWhoAnswersDNSQuestions(t *testing.T) { eachEngine(t, whoAnswersDNSQuestions) }

func whoAnswersDNSQuestions(t *testing.T) {
	pod, peer := newPair(t)
	nameServer(t, pod, "proxy", socket.Mark, "127.0.0.1:15053", "[::1]:15053")
	nameServer(t, pod, "the pod's own", 0, "127.0.0.1:53", "[::1]:53")
	nameServer(t, peer, "peer", 0, hostPort(peer4, 53), hostPort(peer6, 53), hostPort(peer4, 5353))
	for _, test := range []struct {
		what, protocol, to string
		mark               uint32
		dns, plain         string // who answers with and without DNS captured
	}{
		{"the app's", "udp", hostPort(peer4, 53), 0, "proxy", "peer"},
		{"the app's, IPv6", "udp", hostPort(peer6, 53), 0, "proxy", "peer"},
		{"the app's, TCP", "tcp", hostPort(peer4, 53), 0, "proxy", ""},
		{"the app's, TCP, IPv6", "tcp", hostPort(peer6, 53), 0, "proxy", ""},
		{"the proxy's", "udp", hostPort(peer4, 53), socket.Mark, "peer", "peer"},
		{"the proxy's, IPv6", "udp", hostPort(peer6, 53), socket.Mark, "peer", "peer"},
		{"the proxy's, TCP", "tcp", hostPort(peer4, 53), socket.Mark, "peer", "peer"},
		{"in the pod", "udp", "127.0.0.1:53", 0, "the pod's own", "the pod's own"},
		{"in the pod, IPv6", "udp", "[::1]:53", 0, "the pod's own", "the pod's own"},
		{"in the pod, TCP", "tcp", "127.0.0.1:53", 0, "the pod's own", "the pod's own"},
		{"another port", "udp", hostPort(peer4, 5353), 0, "peer", "peer"},
	} {
		set(t, pod, redirect.Capture, redirect.How{DNS: true})
		for range 2 { // the second question finds what the first left behind
			if got := question(t, pod, test.protocol, test.to, test.mark); got != test.dns {
				t.Errorf("with DNS, %s: %q answers, want %q", test.what, got, test.dns)
			}
		}
		set(t, pod, redirect.Capture)
		if got := question(t, pod, test.protocol, test.to, test.mark); test.plain != "" && got != test.plain {
			t.Errorf("without DNS, %s: %q answers, want %q", test.what, got, test.plain)
		}
	}
}

// A question of the proxy's from a port that the app has just used is still the proxy's.
func TestProxysQuestionsAreNotTakenForTheApps(t *testing.T) {
	eachEngine(t, proxysQuestionsAreNotTakenForTheApps)
}

func proxysQuestionsAreNotTakenForTheApps(t *testing.T) {
	pod, peer := newPair(t)
	nameServer(t, pod, "proxy", socket.Mark, "127.0.0.1:15053", "[::1]:15053")
	set(t, pod, redirect.Capture, redirect.How{DNS: true})
	nameServer(t, peer, "peer", 0, hostPort(peer4, 53))
	ask := func(mark uint32) string {
		conn, err := pod.ListenUDP(socket.ListenConfig{Addr: netip.MustParseAddrPort(hostPort(pod4, 4000)), Mark: mark})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.WriteToUDPAddrPort([]byte("who?"), netip.MustParseAddrPort(hostPort(peer4, 53))); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 100)
		n, _, err := conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
	for range 3 {
		if got := ask(0); got != "proxy" {
			t.Errorf("the app's question is answered by %q", got)
		}
		if got := ask(socket.Mark); got != "peer" {
			t.Errorf("the proxy's question is answered by %q", got)
		}
	}
}

// A pod whose proxy has gone is told so at once.
func TestNoProxyIsNoSilence(t *testing.T) {
	useEngine(t, "nft")
	pod, _ := newPair(t)
	set(t, pod, redirect.Capture, redirect.How{DNS: true})
	if got := question(t, pod, "udp", hostPort(peer4, 53), 0); !strings.Contains(got, "refused") {
		t.Errorf("without a proxy: %s", got)
	}
}
