// Package redirect programs a pod's network namespace so that its TCP traffic passes the node's tunnel proxy.
//
// Plan says, as a pure function, what has to be there; Set makes it so over netlink; Current reads what is there.
// The tables, chains, marks, rule and route are those of Istio's ambient mode, so either agent can take over the
// other's pods.
package redirect

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// State is what a pod's namespace does with traffic. The zero State is Removed.
type State int

const (
	// Removed means that nothing of ours is in the namespace.
	Removed State = iota
	// Draining captures no new connection, but keeps those alive which were captured before.
	Draining
	// Capture hands every new connection to the proxy. Connections older than the rules stay direct.
	Capture
	// CaptureDNS is Capture, and the app's DNS questions go to the proxy as well.
	CaptureDNS
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
	case CaptureDNS:
		return "capture with DNS"
	case Damaged:
		return "damaged"
	}
	return fmt.Sprintf("state(%d)", int(s))
}

// Captures tells that new connections go to the proxy.
func (s State) Captures() bool { return s == Capture || s == CaptureDNS }

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

// Set brings the namespace into the desired state (anything but Damaged) and reads it back. It changes nothing
// where all is in place; otherwise the tables change in one transaction, without a moment in which a new connection
// could escape. It clears up after an interrupted earlier run. An error leaves the namespace in a state from which Set
// can be repeated.
func Set(ns *socket.Netns, desired State) error {
	if desired < Removed || desired > CaptureDNS {
		return fmt.Errorf("set redirection to %s: not a state to wish for", desired)
	}
	if err := refuseOwn(ns); err != nil {
		return err
	}
	return ns.Do(func() error {
		found, err := read()
		if err != nil {
			return fmt.Errorf("read redirection: %w", err)
		}
		if found.state() == desired {
			return nil
		}
		if err := apply(found, desired); err != nil {
			return fmt.Errorf("set redirection to %s: %w", desired, err)
		}
		return confirm(desired)
	})
}

// refuseOwn keeps the agent from redirecting the traffic of the node itself.
func refuseOwn(ns *socket.Netns) error {
	var own unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		return fmt.Errorf("look at the agent's own network namespace: %w", err)
	}
	if ns == nil || ns.ID() == (socket.NetnsID{Dev: uint64(own.Dev), Ino: own.Ino}) {
		return errors.New("this is the node's own network namespace, not a pod's: refused")
	}
	return nil
}

// confirm reads the namespace again: what the kernel accepted must be what was meant.
func confirm(desired State) error {
	found, err := read()
	if err != nil {
		return fmt.Errorf("read redirection back: %w", err)
	}
	if state := found.state(); state != desired {
		return fmt.Errorf("redirection is %s after setting it to %s: does another program change the pod's rules? found:\n%s",
			state, desired, found.rules)
	}
	return nil
}

// Current tells in which state the namespace is, by its content alone. The node's own namespace is an error.
func Current(ns *socket.Netns) (State, error) {
	if err := refuseOwn(ns); err != nil {
		return Removed, err
	}
	state := Removed
	err := ns.Do(func() error {
		found, err := read()
		if err != nil {
			return fmt.Errorf("read redirection: %w", err)
		}
		state = found.state()
		return nil
	})
	return state, err
}

// Listing returns the namespace's redirection as text, in the form of Rules.String.
func Listing(ns *socket.Netns) (string, error) {
	text := ""
	err := ns.Do(func() error {
		found, err := read()
		text = found.rules.String()
		return err
	})
	return text, err
}
