// Package redirect programs a pod's network namespace so that its TCP traffic passes the node's tunnel proxy.
//
// There are several ways to do that, the engines. engines.go chooses among them, for each pod, and takes a pod from one to another
// without a moment in which a new connection could escape; what a pod has is found in its namespace, never remembered.
//
//	ebpf      programs choose the listener; no address is rewritten, nothing tracked      ebpf_linux.go, and module bpf
//	nft       the tables, chains, marks, rule and route of Istio's ambient mode, so that  plan.go is what has to be there, as a pure
//	          either agent can take over the other's pods                                 function; nft_linux.go reads and writes it
//	iptables  the same by the programs of iptables, of both variants, on kernels where    iptables.go is what has to be there;
//	          nftables can't redirect                                                     iptables_linux.go reads and writes it
package redirect

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// State is what a pod's namespace does with traffic. The zero State is Removed.
type State int

const (
	// Removed means that nothing of ours is in the namespace.
	Removed State = iota
	// Draining captures no new connection, but keeps those alive which were captured before.
	Draining
	// Capture hands new connections to the proxy. Connections older than the rules stay direct.
	Capture
	// Damaged is only ever found, never wished for: something of ours is there, but not all of it or not in this form.
	Damaged
)

// String returns the state as one lower-case word.
func (s State) String() string {
	switch s {
	case Removed:
		return "removed"
	case Draining:
		return "draining"
	case Capture:
		return "capture"
	case Damaged:
		return "damaged"
	}
	return fmt.Sprintf("state(%d)", int(s))
}

// How says what is captured beside and except connections that begin or end in the pod. The zero How is just those.
type How struct {
	DNS     bool // the app's DNS questions go to the proxy as well
	Ingress bool // who comes in without a tunnel comes to the app
	// Virtual are interfaces in the pod, sorted and with commas between them: connections that come in there begin in the pod too, in
	// a virtual machine or a container.
	Virtual string
}

func (h How) String() string {
	text := ""
	if h.DNS {
		text += " with DNS"
	}
	if h.Ingress {
		text += " without inbound"
	}
	if h.Virtual != "" {
		text += " and of " + h.Virtual
	}
	return text
}

// interfaces are the names in Virtual.
func (h How) interfaces() []string {
	return slices.DeleteFunc(strings.Split(h.Virtual, ","), func(name string) bool { return name == "" })
}

// Ports of the proxy's listeners inside the pod.
const (
	PortOutbound = 15001 // captured outbound connections
	PortInbound  = 15006 // captured inbound plain text
	PortHBONE    = 15008 // inbound tunnels, dialled directly and never captured
	PortDNS      = 15053 // captured DNS questions, by UDP and TCP
)

const (
	markMask     = 0xfff
	proxyMark    = socket.Mark // on every socket of the proxy
	proxiedMark  = 0x111       // on connections from the proxy to the app, and on the app's answers
	rulePriority = 32764
	routeTable   = 100
)

// probe4 and probe6 are the source addresses of the node's own health probes, which go straight to the app.
var (
	probe4 = netip.AddrFrom4([4]byte{169, 254, 7, 127})
	probe6 = netip.MustParseAddr("fd16:9254:7127:1337:ffff:ffff:ffff:ffff")
)
