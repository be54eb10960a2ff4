package controlplane

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/e2e/delta"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
)

// live is what the control plane's heap has after a garbage collection, in bytes.
func (r *replica) live() int {
	r.w.t.Helper()
	_, page, err := r.page(r.w.t.Context(), "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		r.w.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(page, "# HeapAlloc = ")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(line)
	if err != nil {
		r.w.t.Fatal(err)
	}
	return n
}

// TestStuckProxiesCostLittleAndDelayNobody has many that ask for everything and read nothing.
func TestStuckProxiesCostLittleAndDelayNobody(t *testing.T) {
	const (
		stuck   = 30
		changes = 200
		each    = 256 << 10 // bytes that one may cost: buffers of its connection
		late    = 2 * time.Second
	)
	w := newWorld(t)
	// More than the buffers of a connection hold.
	for i := range 40 {
		w.apply(policyOf(i))
	}
	r := w.start(replicaSpec{}).ready()
	var identities []delta.Identity
	for i := range stuck {
		identities = append(identities, w.identity(fmt.Sprintf("stuck%d", i)))
	}
	p := w.join(r, "node1").settled()
	before := r.live()
	var streams []*delta.Stream
	for _, identity := range identities {
		stream, err := delta.Open(t.Context(), w.dial(r), identity)
		for _, typeURL := range []string{delta.Authorization, delta.Address} {
			if err == nil {
				err = stream.Subscribe(typeURL, nil)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
	}
	w.eventually("all of them to be connected", func(ctx context.Context) error {
		_, page, err := r.page(ctx, "/debug/syncz")
		if have := strings.Count(page, proxies+"-stuck"); err == nil && have != stuck {
			err = fmt.Errorf("there are %d", have)
		}
		return err
	})
	for i := range changes {
		name := fmt.Sprintf("web-%d", i%20)
		began := time.Now()
		revision := fmt.Sprintf("r%d", i)
		w.apply(strings.Replace(pod("shop", name, "node1", fmt.Sprintf("10.1.0.%d", i%20+1), true), "app: "+name+"}", "app: "+name+", version: "+revision+"}", 1))
		p.workload(podName("shop", name), func(w *workload.Workload) error {
			if w.CanonicalRevision != revision {
				return fmt.Errorf("revision %q", w.CanonicalRevision)
			}
			return nil
		})
		if took := time.Since(began); took > late {
			t.Errorf("change %d reached the healthy proxy after %s", i, took)
		}
	}
	if after := r.live(); after-before > stuck*each {
		t.Errorf("the heap grew from %d to %d bytes, more than %d for each of %d stuck proxies", before, after, each, stuck)
	}
	r.shows("/metrics", fmt.Sprintf("pilot_xds_write_timeout %d", stuck))
	for _, stream := range streams { // who reads at last learns why
		if err := stream.Run(nil, nil, func(*delta.Response) {}); status.Code(err) != codes.Aborted {
			t.Errorf("a stuck proxy was cut off with %v", err)
		}
	}
	p.undisturbed()
}

// policyOf is a policy of 40 kB.
func policyOf(i int) string {
	var names []string
	for j := range 400 {
		names = append(names, fmt.Sprintf("cluster.local/ns/team-%d/sa/%s-%d", i, strings.Repeat("caller", 12), j))
	}
	return fmt.Sprintf("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: large-%d, namespace: shop}, spec: {rules: [{from: [{source: {principals: [%s]}}]}]}}",
		i, strings.Join(names, ", "))
}
