package push

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// publishPod makes one change of a workload that runs on a node, or takes it away if it has no address.
func publishPod(t *testing.T, log *Log, name, address, node string, services ...string) {
	t.Helper()
	update := Update{Type: Address, Name: name}
	if address != "" {
		w := &workload.Workload{Uid: name, Addresses: [][]byte{netip.MustParseAddr(address).AsSlice()}, Node: node, Services: map[string]*workload.PortList{}}
		for _, service := range services {
			w.Services[service] = &workload.PortList{}
		}
		update.Message = &workload.Address{Type: &workload.Address_Workload{Workload: w}}
	}
	if _, failures := log.Publish([]Update{update}); len(failures) > 0 {
		t.Fatal(failures)
	}
}

func publishService(t *testing.T, log *Log, host string, ranges ...string) {
	t.Helper()
	s := &workload.Service{Namespace: "s", Hostname: host}
	for _, text := range ranges {
		prefix := netip.MustParsePrefix(text)
		at := &workload.NetworkAddress{Address: prefix.Addr().AsSlice()}
		if !prefix.IsSingleIP() {
			length := uint32(prefix.Bits())
			at.Length = &length
		}
		s.Addresses = append(s.Addresses, at)
	}
	update := Update{Type: Address, Name: "s/" + host, Message: &workload.Address{Type: &workload.Address_Service{Service: s}}}
	if _, failures := log.Publish([]Update{update}); len(failures) > 0 {
		t.Fatal(failures)
	}
}

func (b *bench) ask(names ...string) {
	b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, ResourceNamesSubscribe: names})
}

func (b *bench) nothingAtFirst() {
	b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, ResourceNamesSubscribe: []string{"*"}, ResourceNamesUnsubscribe: []string{"*"}})
	b.take(Address)
}

func TestAnAddressIsAnsweredByWhateverHasIt(t *testing.T) {
	inBubble(t, func(b *bench) {
		publishPod(t, b.log, "w/a", "10.0.0.1", "", "s/web")
		publishPod(t, b.log, "w/b", "10.0.0.2", "", "s/web", "s/other")
		publishPod(t, b.log, "w/c", "10.0.0.3", "")
		publishService(t, b.log, "web", "172.16.0.1/32")
		publishService(t, b.log, "wide", "172.17.0.0/16")
		publishPod(t, b.log, "w/d", "10.0.0.4", "", "s/wide")
		b.nothingAtFirst()
		b.ask("/10.0.0.3")
		response, _ := b.next()
		if got := fmt.Sprint(contents(response), response.Resources[0].Aliases); got != "[w/c] [/10.0.0.3]" {
			t.Errorf("answer = %s", got)
		}
		b.ack(response)
		b.ask("/172.16.0.1", "/9.9.9.9")
		b.take(Address, "s/web", "w/a", "w/b", "-/9.9.9.9")
		b.ask("/172.17.5.6")
		response, _ = b.next()
		if got := fmt.Sprint(contents(response), response.Resources[0].Aliases); got != "[s/wide w/d] [/172.17.0.0/16 /172.17.5.6]" {
			t.Errorf("answer = %s", got)
		}
		b.ack(response)
		b.ask("s/other")
		b.take(Address, "w/b") // the service isn't there, but its endpoint tells of it
	})
}

// Pods of the host's network share its addresses: which of them is meant can't be said.
func TestAnAddressOfAHostIsNoneOfItsPods(t *testing.T) {
	inBubble(t, func(b *bench) {
		for _, name := range []string{"w/a", "w/b"} {
			w := &workload.Workload{Uid: name, Addresses: [][]byte{{192, 0, 2, 1}}, NetworkMode: workload.NetworkMode_HOST_NETWORK}
			if _, failures := b.log.Publish([]Update{{Address, name, &workload.Address{Type: &workload.Address_Workload{Workload: w}}}}); len(failures) > 0 {
				t.Fatal(failures)
			}
		}
		b.nothingAtFirst()
		b.ask("/192.0.2.1", "w/b")
		b.take(Address, "w/b", "-/192.0.2.1")
	})
}

func TestWhatCameAlongIsKeptUpToDate(t *testing.T) {
	inBubble(t, func(b *bench) {
		publishPod(t, b.log, "w/a", "10.0.0.1", "", "s/web")
		publishService(t, b.log, "web", "172.16.0.1/32")
		b.nothingAtFirst()
		b.ask("/172.16.0.1", "/10.0.0.9")
		b.take(Address, "s/web", "w/a", "-/10.0.0.9")
		publishPod(t, b.log, "w/a", "10.0.0.2", "")
		b.take(Address, "w/a") // no longer an endpoint, which has to be told
		publishPod(t, b.log, "w/b", "10.0.0.3", "", "s/web")
		b.take(Address, "w/b")
		publishPod(t, b.log, "w/new", "10.0.0.9", "")
		b.take(Address, "w/new") // the address was asked for
		publishPod(t, b.log, "w/else", "10.0.0.10", "")
		b.silent(time.Second)
		publishPod(t, b.log, "w/a", "", "")
		b.take(Address, "-w/a")
		publishPod(t, b.log, "w/a", "10.0.0.11", "") // nobody asked for this one
		b.silent(time.Second)
	})
}

func TestWhatWasAskedForIsToldWheneverItComes(t *testing.T) {
	inBubble(t, func(b *bench) {
		publishPod(t, b.log, "w/a", "10.0.0.1", "")
		b.nothingAtFirst()
		b.ask("w/a")
		b.take(Address, "w/a")
		publishPod(t, b.log, "w/a", "", "")
		b.take(Address, "-w/a")
		publishPod(t, b.log, "w/a", "10.0.0.2", "")
		b.take(Address, "w/a")
	})
}

func TestPodsOfTheProxysNodeComeUnasked(t *testing.T) {
	inBubbleAs(t, Caller{Namespace: "istio-system", ServiceAccount: "ztunnel", Node: "n1"}, func(b *bench) {
		publishPod(t, b.log, "w/a", "10.0.0.1", "n1")
		publishPod(t, b.log, "w/b", "10.0.0.2", "n2")
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, ResourceNamesSubscribe: []string{"*"}, ResourceNamesUnsubscribe: []string{"*"}})
		b.take(Address, "w/a")
		publishPod(t, b.log, "w/c", "10.0.0.3", "n1")
		b.take(Address, "w/c")
		publishPod(t, b.log, "w/a", "", "")
		b.take(Address, "-w/a")
	})
}

func TestKeysGoWithTheirResources(t *testing.T) {
	log := NewLog()
	publishPod(t, log, "w/a", "10.0.0.1", "n1", "s/web")
	publishPod(t, log, "w/a", "10.0.0.2", "n1", "s/web")
	publishService(t, log, "wide", "172.17.0.0/16")
	names := func(key string) (list []string) {
		for _, e := range log.tables[Address].named(key) {
			list = append(list, e.name)
		}
		return list
	}
	for key, want := range map[string][]string{"/10.0.0.1": nil, "/10.0.0.2": {"w/a"}, "s/web": {"w/a"}, "/172.17.0.1": {"s/wide"}, "/172.17.0.0/16": {"s/wide"}} {
		if got := names(key); !slices.Equal(got, want) {
			t.Errorf("%s means %q, want %q", key, got, want)
		}
	}
	publishPod(t, log, "w/a", "", "")
	publish(t, log, "s/wide")
	if left := log.tables[Address].index; len(left.byKey) > 0 || len(left.ranged) > 0 {
		t.Errorf("left over: %v", left)
	}
}
