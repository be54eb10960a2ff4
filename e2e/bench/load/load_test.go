package load

import (
	"math"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

func TestQuantilesAreRightToThreePercent(t *testing.T) {
	h := &Histogram{}
	for d := time.Microsecond; d <= 10*time.Millisecond; d += time.Microsecond {
		h.Add(d)
	}
	sum := &Histogram{}
	h.MoveTo(sum)
	for q, want := range map[float64]time.Duration{0.5: 5 * time.Millisecond, 0.99: 9900 * time.Microsecond} {
		if got := sum.Quantile(q); math.Abs(float64(got-want)) > 0.03*float64(want) {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	empty := &Histogram{}
	if h.MoveTo(empty); empty.Quantile(0.5) != 0 {
		t.Error("counts stay after they were moved")
	}
}

func TestBucketsCoverAllDurations(t *testing.T) {
	last := -1
	for shift := range 63 {
		for _, d := range []time.Duration{1 << shift, 1<<shift + 1<<shift/2} {
			b := bucket(d)
			if b < last || b >= buckets {
				t.Fatalf("%v is in bucket %d of %d, after %d", d, b, buckets, last)
			}
			if m := middle(b); math.Abs(float64(m-d)) > 0.04*float64(d)+1 {
				t.Errorf("%v is in the bucket of %v", d, m)
			}
			last = b
		}
	}
	if b := bucket(math.MaxInt64); b >= buckets {
		t.Errorf("bucket %d of %d", b, buckets)
	}
}

// Every kind of traffic, between a client and a server in this process.
func TestEveryKindOfTrafficFlows(t *testing.T) {
	server := &counters{}
	host := netip.MustParseAddr("127.0.71.1")
	listeners, err := server.listen(host.String())
	for _, listener := range listeners {
		defer listener.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range []Job{
		{Kind: Upload, Conns: 2}, {Kind: Download, Conns: 2}, {Kind: Exchange, Conns: 3, Size: 1000}, {Kind: Connect, Conns: 2}, {Kind: Idle, Conns: 40},
	} {
		c := &control{counters: &counters{}}
		job.To = host
		before := server.totals()
		if err := c.Start(job, nil); err != nil {
			t.Fatal(err)
		}
		if c.Start(job, nil) == nil {
			t.Errorf("%s: two jobs at once", job.Kind)
		}
		moved := func() bool {
			var got Totals
			c.Read(struct{}{}, &got)
			return job.Kind == Idle || got.Bytes+got.Ops+server.totals().Bytes-before.Bytes > 0
		}
		for deadline := time.Now().Add(5 * time.Second); !moved() && time.Now().Before(deadline); {
			runtime.Gosched()
		}
		if !moved() {
			t.Errorf("%s: nothing came", job.Kind)
		}
		c.Stop(struct{}{}, nil)
		if got := c.counters.totals(); got.Failures > 0 {
			t.Errorf("%s: %+v", job.Kind, got)
		}
	}
}

func TestJobsThatNobodyStopsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &job{counters: &counters{}}
		j.ctx, j.cancel = newJobContext()
		h := &Histogram{}
		j.group.Go(func() { j.repeat(func(*Histogram) error { time.Sleep(time.Second); return nil }, h) })
		began := time.Now()
		j.group.Wait()
		if took := time.Since(began); took < jobLimit || took > jobLimit+2*time.Second {
			t.Errorf("it ran for %v", took)
		}
	})
}
