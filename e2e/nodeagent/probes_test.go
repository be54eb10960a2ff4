package nodeagent

import (
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeproxy"
)

// passing are the addresses whose probes pass, by what is in the node's network.
func (w *world) passing() string {
	probes, err := redirect.NewProbes(w.host.Netns, slog.New(slog.NewTextHandler(io.Discard, nil)))
	w.must(err)
	addrs, err := probes.Passing()
	w.must(err)
	return joined(addrs)
}

func joined(addrs []netip.Addr) string {
	var texts []string
	for _, addr := range addrs {
		texts = append(texts, addr.String())
	}
	return strings.Join(texts, " ")
}

// Who is enrolled is probed past capture: from before the pod's start, when only the runtime knows its address, until its end.
func TestProbesOfEnrolledPodsPass(t *testing.T) {
	w := newWorld(t, ambient)
	_, kill := w.start()
	fakeproxy.Connect(t, w.zds(), nil)
	cart := w.pod("cart", podSpec{waiting: true})
	w.must(cart.cni("ADD"))
	if got := w.passing(); got != cart.addr { // at once: the app starts now
		t.Errorf("probes of %q pass, want %s", got, cart.addr)
	}
	shop := w.pod("shop", podSpec{})
	shop.until("enabled", in)
	both := cart.addr + " " + shop.addr
	w.eventually(both, w.passing)
	kill()
	if got := w.passing(); got != both {
		t.Errorf("without the agent, probes of %q pass, want %s", got, both)
	}
	w.start()
	fakeproxy.Connect(t, w.zds(), nil)
	w.eventually("ready\n", func() string { return w.ask("/readyz") })
	if got := w.passing(); got != both { // although nobody says where cart is
		t.Errorf("with the next agent, probes of %q pass, want %s", got, both)
	}
	cart.apply(podSpec{labels: "istio.io/dataplane-mode: none"})
	w.eventually(shop.addr, w.passing)
	w.must(shop.cni("DEL"))
	w.eventually("", w.passing)
}

// With the agent its rules go, but not with an agent that another will follow.
func TestProbesAreForgottenWithTheLastAgent(t *testing.T) {
	w := newWorld(t, ambient)
	folders := w.runtime()
	folders.network()
	w.apply(daemonSet)
	stop, _ := w.start()
	fakeproxy.Connect(t, w.zds(), nil)
	cart := w.pod("cart", podSpec{})
	cart.until("enabled", in)
	w.eventually(cart.addr, w.passing)
	stop()
	if got := w.passing(); got != cart.addr {
		t.Errorf("probes of %q pass, want %s", got, cart.addr)
	}
	stop, _ = w.start()
	w.eventually("ready\n", func() string { return w.ask("/readyz") })
	w.must(w.Delete(t.Context(), daemonSet))
	stop()
	if got := w.passing(); got != "" {
		t.Errorf("probes of %q pass", got)
	}
}
