package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/e2e/bench/report"
	"github.com/tulle-mesh/tulle/e2e/delta"
)

// bench measures one size.
type bench struct {
	options
	size    size
	dir     string
	figures map[figure]float64

	server  *apiserver.Server
	writer  *writer
	proxies []delta.Identity
	pool    *x509.CertPool // roots of the control plane
}

// calm is how long everything rests before memory is looked at.
const calm = 5 * time.Second

func (b *bench) run(ctx context.Context) (err error) {
	say("%d pods, %d services, %d policies, %d nodes:", b.size.pods, b.size.services, b.size.policies, b.size.nodes)
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	defer func() { b.writer.close(); err = errors.Join(err, b.server.Stop()) }()
	var c *control
	err = b.meanwhile(startOthers, func() (err error) { c, err = b.firstStarts(ctx); return err })
	if err != nil {
		return err
	}
	defer c.stop()
	certificates := func(ctx context.Context, c *control) error {
		return b.meanwhile(certsOthers, func() error { return b.certificates(ctx, c) })
	}
	for _, measure := range []func(context.Context, *control) error{b.alone, b.few, b.many, certificates} {
		if err := measure(ctx, c); err != nil {
			return errors.Join(err, c.alive())
		}
	}
	return nil
}

// prepare starts the API server and fills it.
func (b *bench) prepare(ctx context.Context) (err error) {
	if b.server, err = apiserver.Start(ctx, apiserver.Config{Dir: b.dir}); err != nil {
		return err
	}
	began := time.Now()
	err = errors.Join(b.server.Install(ctx, apiserver.IstioCRDs, apiserver.GatewayCRDs), b.foundations(ctx))
	if err == nil {
		err = b.fill(ctx)
	}
	if err == nil {
		err = b.identities(ctx)
	}
	if err != nil {
		return errors.Join(err, b.server.Stop())
	}
	say("  filled in %s", time.Since(began).Round(time.Second))
	return nil
}

// foundations are the system's namespace and the proxies' account.
func (b *bench) foundations(ctx context.Context) error {
	client := b.server.Client().CoreV1()
	_, err := client.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: system}}, metav1.CreateOptions{})
	if err == nil {
		_, err = client.ServiceAccounts(system).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: proxies, Namespace: system}}, metav1.CreateOptions{})
	}
	return err
}

// resources is how many a client has in the end.
func (b *bench) resources() int64 {
	const kubernetes = 1 // the API server's own service
	return int64(b.size.pods + b.clients + b.size.services + kubernetes + b.size.policies)
}

// firstStarts measures from the start of the program to when a client that tries again and again has everything. The first start,
// which makes the authority's key, doesn't count.
func (b *bench) firstStarts(ctx context.Context) (*control, error) {
	c, err := b.startControl(ctx)
	if err != nil {
		return nil, err
	}
	err = c.until(ctx, func() (err error) { b.pool, err = b.roots(ctx); return err })
	if err == nil {
		err = c.ready(ctx)
	}
	var took []float64
	for len(took) < b.starts && err == nil {
		c.stop()
		var seconds float64
		if c, seconds, err = b.start(ctx); err == nil {
			took = append(took, seconds)
		}
	}
	if err != nil {
		if c != nil {
			c.stop()
		}
		return nil, err
	}
	slices.Sort(took)
	b.set(firstSnapshot, took[len(took)/2])
	return c, nil
}

// start returns the seconds from a start to the first full snapshot.
func (b *bench) start(ctx context.Context) (*control, float64, error) {
	c, err := b.startControl(ctx)
	if err != nil {
		return nil, 0, err
	}
	one, err := b.connect(ctx, c, []int{0}, nil, nil)
	defer one.close()
	if err == nil {
		err = one.holding(ctx, b.resources())
	}
	if err != nil {
		return c, 0, errors.Join(err, c.alive())
	}
	return c, time.Since(c.began).Seconds(), nil
}

func (b *bench) set(f figure, value float64) {
	b.figures[f] = value
	say("  %s: %s %s", f.name, report.Number(value), f.unit)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

const (
	mega = 1 << 20
	kilo = 1e3
)

// held notes the memory with a number of clients.
func (b *bench) held(ctx context.Context, c *control, heap, resident, anonymous figure) error {
	if err := pause(ctx, calm); err != nil {
		return err
	}
	m, err := c.memory()
	if err != nil {
		return err
	}
	live, err := c.heap(ctx)
	if err != nil {
		return err
	}
	b.set(heap, live/mega)
	b.set(resident, m.resident/mega)
	b.set(anonymous, m.anonymous/mega)
	return nil
}

// alone is without clients.
func (b *bench) alone(ctx context.Context, c *control) error {
	err := b.held(ctx, c, heap0, resident0, anonymous0)
	return errors.Join(err, b.profile(ctx, c, "heap", "/debug/pprof/heap?gc=1"))
}

// few is with ten clients.
func (b *bench) few(ctx context.Context, c *control) error {
	clients, err := b.connect(ctx, c, through(0, min(10, b.clients)), nil, nil)
	defer clients.close()
	if err == nil {
		err = clients.holding(ctx, b.resources())
	}
	return errors.Join(err, b.held(ctx, c, heap10, resident10, anonymous10), clients.lost())
}

// rest waits until the control plane has written the statuses of all that is new.
func (c *control) rest(ctx context.Context) error {
	const look, little = time.Second, 20 * time.Millisecond
	before, err := c.spent()
	for range 600 {
		if err := errors.Join(err, pause(ctx, look)); err != nil {
			return err
		}
		var now time.Duration
		now, err = c.spent()
		if now-before <= little {
			return err
		}
		before = now
	}
	return errors.New("the control plane doesn't come to rest within ten minutes")
}

// many is with all clients, one of them stuck: cold at once, then while pods change, then back with what they know.
func (b *bench) many(ctx context.Context, c *control) error {
	churn := newChurn(b)
	stop, err := b.stuck(ctx, c, b.clients-1)
	if err != nil {
		return err
	}
	defer stop()
	if err := c.rest(ctx); err != nil {
		return err
	}
	clients, err := b.cold(ctx, c, churn.receive)
	defer func() { clients.close() }()
	if err != nil {
		return err
	}
	if err := b.held(ctx, c, heap100, resident100, anonymous100); err != nil {
		return err
	}
	watching, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	if err := churn.watch(watching); err != nil {
		return err
	}
	for i, rate := range []int{20, 100} {
		if err := b.changes(ctx, c, churn, clients, rate, at[i]); err != nil {
			return fmt.Errorf("%d changes a second: %w", rate, errors.Join(err, clients.lost()))
		}
	}
	clients.close()
	clients, err = b.reconnect(ctx, c)
	return err
}

// cold connects all clients at once and notes the peak of memory meanwhile.
func (b *bench) cold(ctx context.Context, c *control, handle func(int, *delta.Response)) (fleet, error) {
	peak := watchPeak(c)
	began := time.Now()
	clients, err := b.connect(ctx, c, through(0, b.clients-1), nil, handle)
	if err == nil {
		err = clients.holding(ctx, b.resources())
	}
	b.set(coldTime, time.Since(began).Seconds())
	m := peak()
	b.set(peakResident, m.resident/mega)
	b.set(peakAnonymous, m.anonymous/mega)
	return clients, err
}

// watchPeak looks at the memory every few milliseconds until the returned function is called, which gives the most of each.
func watchPeak(c *control) func() memory {
	stop, result := make(chan struct{}), make(chan memory)
	go func() {
		var most memory
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			if m, err := c.memory(); err == nil {
				most.resident, most.anonymous = max(most.resident, m.resident), max(most.anonymous, m.anonymous)
			}
			select {
			case <-ticker.C:
			case <-stop:
				result <- most
				return
			}
		}
	}()
	return func() memory { close(stop); return <-result }
}

// changes measures at one rate of changes.
func (b *bench) changes(ctx context.Context, c *control, churn *churn, clients fleet, rate int, f rateFigures) error {
	spent, err := c.spent()
	if err != nil {
		return err
	}
	bytes, messages := clients.received()
	profiled := make(chan error, 1)
	go func() {
		profiled <- b.profile(ctx, c, fmt.Sprintf("churn-%d", rate), fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(b.duration.Seconds())))
	}()
	var events []*event
	err = b.meanwhile(f.others, func() (err error) { events, err = churn.run(ctx, rate, b.duration); return err })
	if err := errors.Join(err, <-profiled); err != nil {
		return err
	}
	after, err := c.spent()
	if err != nil {
		return err
	}
	bytesAfter, messagesAfter := clients.received()
	all, n := churn.latencies(events), float64(len(events))
	if middle := all[len(all)/2]; middle >= 0 {
		b.set(f.p50, middle.Seconds()*kilo)
		b.set(f.p99, all[len(all)*99/100].Seconds()*kilo)
	} else {
		say("  %s: not measured, the plain watch itself was %s behind the clients", f.p50.name, -middle)
	}
	b.set(f.cpu, (after-spent).Seconds()*kilo/n)
	b.set(f.bytes, float64(bytesAfter-bytes)/n/float64(len(clients)))
	b.set(f.messages, float64(messagesAfter-messages)/n/float64(len(clients)))
	return nil
}

// reconnect brings all clients back at once, with the versions that they have.
func (b *bench) reconnect(ctx context.Context, c *control) (fleet, error) {
	have, err := b.learn(ctx, c)
	if err != nil {
		return nil, err
	}
	spent, err := c.spent()
	if err != nil {
		return nil, err
	}
	profiled := make(chan error, 1)
	go func() { profiled <- b.profile(ctx, c, "reconnect", "/debug/pprof/profile?seconds=3") }()
	if err := pause(ctx, 100*time.Millisecond); err != nil {
		return nil, err
	}
	peak := watchPeak(c)
	began := time.Now()
	clients, err := b.connect(ctx, c, through(0, b.clients-1), have, nil)
	if err == nil {
		err = clients.settled(ctx)
	}
	took := time.Since(began)
	if err := errors.Join(err, <-profiled); err != nil {
		return clients, err
	}
	b.set(againTime, took.Seconds())
	bytes, _ := clients.received()
	b.set(againBytes, float64(bytes)/kilo/float64(len(clients)))
	b.set(againPeak, peak().anonymous/mega)
	after, err := c.spent()
	b.set(againCPU, (after-spent).Seconds()*kilo/float64(len(clients)))
	return clients, err
}

// learn returns the versions of everything, by type.
func (b *bench) learn(ctx context.Context, c *control) (map[string]delta.Versions, error) {
	known := map[string]map[string]string{}
	one, err := b.connect(ctx, c, []int{0}, nil, func(_ int, r *delta.Response) {
		if known[r.TypeURL] == nil {
			known[r.TypeURL] = map[string]string{}
		}
		for _, resource := range r.Resources {
			known[r.TypeURL][resource.Name] = resource.Version
		}
	})
	if err == nil {
		err = errors.Join(one.settled(ctx), pause(ctx, time.Second))
	}
	one.close() // after which nobody writes to the map
	have := map[string]delta.Versions{}
	for typeURL, versions := range known {
		if err == nil {
			have[typeURL], err = delta.EncodeVersions(versions)
		}
	}
	return have, err
}
