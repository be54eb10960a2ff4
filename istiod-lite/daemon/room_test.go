package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// TestSelectorsOfManyWorkloadsStaySmall: entries with all the hosts and ports that there may be choose many workloads. Whoever may
// write them could else fill the memory of the control plane and of every proxy with a few kilobytes.
func TestSelectorsOfManyWorkloadsStaySmall(t *testing.T) {
	const entries, workloads, most = 10, 300, 64 << 20
	var changes []model.Change
	add := func(o model.Object) { changes = append(changes, model.Change{Key: o.Key(), Object: o}) }
	label := model.LabelsOf(map[string]string{"app": "x"})
	for i := range entries {
		e := &model.ServiceEntry{Namespace: "evil", Name: fmt.Sprint("e", i), Selected: true, Selector: label, Resolution: model.ResolveStatic}
		for j := range 256 {
			e.Hosts = append(e.Hosts, fmt.Sprintf("h%d.e%d.example.com", j, i))
		}
		for j := range uint16([]int{8, 256}[i%2]) { // the first finds room, and takes all
			e.Ports = append(e.Ports, model.ServicePort{Port: 1000 + j, Target: 1000 + j})
		}
		add(e)
	}
	for i := range workloads {
		add(&model.WorkloadEntry{Namespace: "evil", Name: fmt.Sprint("w", i), EntryEndpoint: model.EntryEndpoint{
			IP: netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), Labels: label,
		}})
	}
	p := emptyPipeline()
	before := int64(heap())
	p.apply(context.Background(), changes)
	if grown := int64(heap()) - before; grown > most {
		t.Errorf("the heap has grown by %d MiB, want %d at most", grown>>20, most>>20)
	}
	runtime.KeepAlive(p)
}
