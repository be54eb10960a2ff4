package push

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

func TestAnEmptyMeshIsAnsweredForEachType(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.subscribe(Address)
		b.take(Address)
		b.subscribe(Authorization)
		b.take(Authorization)
		b.silent(time.Hour)
	})
}

func TestAChangeIsSentAtOnceAndABurstAtTheWindowsEnd(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a=1", "w/b=1")
		b.subscribe(Address)
		b.take(Address, "w/a", "w/b")
		b.silent(time.Minute)
		publish(t, b.log, "w/a=2")
		if took := b.take(Address, "w/a"); took != 0 {
			t.Errorf("the first change waited for %s", took)
		}
		for i := range 5 {
			publish(t, b.log, fmt.Sprint("w/a=", 3+i), fmt.Sprint("w/c=", i))
			time.Sleep(time.Millisecond)
		}
		publish(t, b.log, "w/b")
		if took := b.take(Address, "w/a", "w/c", "-w/b"); took != 5*time.Millisecond {
			t.Errorf("the burst waited for %s more, the window is %s", took, window)
		}
		// A resource that came and went in between isn't mentioned but as gone.
		publish(t, b.log, "w/d=1")
		publish(t, b.log, "w/d")
		b.take(Address, "-w/d")
		b.silent(time.Minute)
	})
}

func TestAStreamWithoutRestRestsLonger(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a=1")
		b.subscribe(Address)
		b.take(Address, "w/a")
		b.silent(time.Minute)
		const late = 4 * time.Millisecond // is the acknowledgement
		for i, want := range []time.Duration{0, window - late, window, window} {
			publish(t, b.log, fmt.Sprint("w/a=", 2+i))
			response, took := b.next()
			if took != want {
				t.Errorf("change %d waited for %s, want %s", i, took, want)
			}
			time.Sleep(late)
			b.ack(response)
		}
		b.silent(time.Minute)
		publish(t, b.log, "w/a=1")
		if took := b.take(Address, "w/a"); took != 0 {
			t.Errorf("after a rest a change waited for %s", took)
		}
	})
}

func TestPoliciesComeFirstAndGoLast(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.subscribe(Address, Authorization)
		b.take(Authorization)
		b.take(Address)
		publish(t, b.log, "w/a=1", "p/x=1", "p/y=1")
		b.take(Authorization, "p/x", "p/y")
		b.take(Address, "w/a")
		publish(t, b.log, "p/y=2", "p/x", "w/a=2")
		b.take(Authorization, "p/y")
		b.take(Address, "w/a")
		b.take(Authorization, "-p/x")
		publish(t, b.log, "p/y")
		b.take(Authorization, "-p/y")
		b.silent(time.Minute)
	})
}

func TestNothingMoreIsSentBeforeTheLastWasAcknowledged(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.subscribe(Address)
		first, _ := b.next()
		publish(t, b.log, "w/a=1")
		b.silent(patience / 2)
		publish(t, b.log, "w/a=2")
		b.ack(first)
		b.take(Address, "w/a")
		if got := b.metric("pilot_xds_pushes"); got != 2 {
			t.Errorf("%v pushes", got)
		}
		synctest.Wait()
		for name, want := range map[string]float64{
			"pilot_proxy_convergence_time": 1, "pilot_proxy_queue_time": 1, // of the change
			"pilot_xds_push_time": 2, "pilot_xds_send_time": 2, "pilot_xds_config_size_bytes": 2, // and of the first answer
		} {
			if got := b.metric(name); got != want {
				t.Errorf("%s: %v samples, want %v", name, got, want)
			}
		}
	})
}

func TestAProxyThatDoesNotAcknowledgeIsCutOff(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.subscribe(Address)
		b.next()
		start := time.Now()
		b.wantEnd("Aborted: a push was not acknowledged within 30s")
		if took := time.Since(start); took != patience {
			t.Errorf("after %s", took)
		}
		if got := b.metric("pilot_xds_write_timeout"); got != 1 {
			t.Errorf("%v cut off", got)
		}
	})
}

func TestAProxyHasTimeToReadALargeRound(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a="+strings.Repeat("x", 2*more), "w/b=1")
		b.subscribe(Address)
		b.next()
		start := time.Now()
		b.wantEnd("Aborted: a push was not acknowledged within 1m30s")
		if took := time.Since(start); took != 3*patience {
			t.Errorf("after %s", took)
		}
	})
}

func TestAProxyIsNotCutOffWhenWhatItDidNotAskForChanges(t *testing.T) {
	t.Run("another type", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.subscribe(Authorization)
			b.take(Authorization)
			publish(t, b.log, "w/a=1")
			b.silent(time.Hour)
			publish(t, b.log, "p/x=1")
			b.take(Authorization, "p/x")
		})
	})
	t.Run("another name", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, ResourceNamesSubscribe: []string{"w/a"}})
			b.take(Address, "-w/a")
			publish(t, b.log, "w/b=1")
			b.silent(time.Hour)
			publish(t, b.log, "w/a=1")
			b.take(Address, "w/a")
			synctest.Wait()
			if got := b.metric("pilot_proxy_convergence_time"); got != 1 {
				t.Errorf("%v convergences", got)
			}
		})
	})
}

func TestAProxyThatDoesNotReadIsCutOffAndCostsNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.subscribe(Address)
		b.take(Address)
		for i := range 1000 {
			publish(t, b.log, fmt.Sprint("w/", i, "=1"))
			time.Sleep(time.Millisecond)
		}
		// One round is under way, the rest is but a cursor.
		if got := b.metric("pilot_xds_pushes"); got != 2 {
			t.Errorf("%v pushes", got)
		}
		b.wantEnd("Aborted: a push was not acknowledged within 30s")
		synctest.Wait()
		if got := b.metric("pilot_xds"); got != 0 {
			t.Errorf("%v clients", got)
		}
		b.log.lock.Lock()
		defer b.log.lock.Unlock()
		if len(b.log.readers) != 0 {
			t.Errorf("%d cursors are left", len(b.log.readers))
		}
	})
}

func TestARejectionIsLoggedAndCountedAndNotRepeated(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.subscribe(Address)
		b.take(Address)
		publish(t, b.log, "w/a=1", "w/b=1")
		response, _ := b.next()
		b.send(nack(response, "w/a: bad address"))
		b.silent(time.Minute)
		synctest.Wait()
		if got := b.metric("pilot_total_xds_rejects"); got != 1 {
			t.Errorf("%v rejects", got)
		}
		for _, want := range []string{"w/a: bad address", "resources=\"[w/a w/b]\"", "type=wds", "proxy=ztunnel~1.1.1.1~z.istio-system~x"} {
			if !strings.Contains(b.logged.String(), want) {
				t.Errorf("no %s in %s", want, b.logged)
			}
		}
		publish(t, b.log, "w/a=2")
		b.take(Address, "w/a")
	})
}

func TestAStaleNonceIsIgnored(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.subscribe(Address)
		first, _ := b.next()
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, ResponseNonce: "7"})
		publish(t, b.log, "w/a=1")
		b.silent(time.Second)
		b.ack(first)
		b.take(Address, "w/a")
		b.ack(first)
		synctest.Wait()
		if got := b.metric("pilot_xds_expired_nonce"); got != 2 {
			t.Errorf("%v expired", got)
		}
		b.silent(time.Hour)
	})
}

func TestAReconnectGetsOnlyWhatDiffers(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a=1", "w/b=1", "w/c=1", "w/gone=1")
		versions := map[string]string{"w/never": "1"}
		for _, resource := range b.log.All(Address) {
			versions[resource.Name] = resource.Version
		}
		publish(t, b.log, "w/gone", "w/b=2", "w/new=1")
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, InitialResourceVersions: versions})
		b.take(Address, "w/b", "w/new", "-w/gone", "-w/never")
		publish(t, b.log, "w/a")
		b.take(Address, "-w/a")
	})
}

func TestAReconnectKeepsTheOrderOfTypes(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a=2")
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Authorization, InitialResourceVersions: map[string]string{"p/x": "1"}})
		b.silent(gathering / 2)
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, InitialResourceVersions: map[string]string{"w/a": "1"}})
		b.take(Address, "w/a")
		b.take(Authorization, "-p/x")
	})
}

func TestASubscriptionByName(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a=1", "w/b=1", "w/c=1")
		// Ztunnel's way of saying that it doesn't want everything.
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, ResourceNamesSubscribe: []string{"*"}, ResourceNamesUnsubscribe: []string{"*"}})
		b.take(Address)
		publish(t, b.log, "w/a=2")
		b.silent(time.Second)
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, ResourceNamesSubscribe: []string{"w/b", "w/a", "w/not-yet"}})
		b.take(Address, "w/a", "w/b", "-w/not-yet")
		publish(t, b.log, "w/c=2", "w/not-yet=1", "w/a")
		b.take(Address, "w/not-yet", "-w/a")
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, ResourceNamesUnsubscribe: []string{"w/b"}})
		publish(t, b.log, "w/b=3")
		b.silent(time.Second)
		// Asked for again, it is answered though nothing changed.
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, ResourceNamesSubscribe: []string{"w/not-yet"}})
		b.take(Address, "w/not-yet")
		// And then everything after all.
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, ResourceNamesSubscribe: []string{"*"}})
		b.take(Address, "w/c", "w/not-yet", "w/b")
	})
}

func TestASubscriptionByNameResumes(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a=1", "w/b=1")
		known := b.log.All(Address)[0]
		b.send(&discoveryv3.DeltaDiscoveryRequest{
			TypeUrl: Address, ResourceNamesSubscribe: []string{"w/a", "w/b", "w/gone"},
			InitialResourceVersions: map[string]string{known.Name: known.Version, "w/gone": "1"},
		})
		b.take(Address, "w/b", "-w/gone")
	})
}

func TestANameBesideEverythingIsAnswered(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a=1")
		b.subscribe(Address)
		b.take(Address, "w/a")
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, ResourceNamesSubscribe: []string{"w/a", "w/none"}})
		b.take(Address, "w/a", "-w/none")
	})
}

func TestTooManyNamesEndTheStream(t *testing.T) {
	short := make([]string, maxNames+1)
	for i := range short {
		short[i] = fmt.Sprint(i)
	}
	long := make([]string, maxNameBytes/maxName)
	for i := range long {
		long[i] = fmt.Sprintf("%0*d", maxName, i)
	}
	for name, requests := range map[string][][]string{
		"many at once":             {short},
		"one that is too long":     {{"w/a"}, {strings.Repeat("x", maxName+1)}},
		"long ones, one by one":    {long[:len(long)/2], long[len(long)/2:], {"w/a"}},
		"the same again and again": {slices.Repeat(long[:1], len(long)+1)},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				for _, names := range requests {
					b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, ResourceNamesSubscribe: names})
				}
				b.wantEnd("ResourceExhausted: more than 100000 names subscribed to, 16777216 bytes of them, or a name of more than 2048: subscribe to *")
			})
		})
	}
}

// What a proxy doesn't want any more, and what was answered, counts no longer.
func TestNamesThatComeAndGoNeverEndTheStream(t *testing.T) {
	var s subscription
	long := strings.Repeat("x", maxName)
	for i := range 3 * maxNameBytes / maxName {
		r := request{DeltaDiscoveryRequest: discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{fmt.Sprintf("%s%d", long[:maxName-8], i)}}}
		if i > 0 {
			r.ResourceNamesUnsubscribe = []string{fmt.Sprintf("%s%d", long[:maxName-8], i-1)}
		}
		if !s.request(i == 0, &r) {
			t.Fatalf("too much after %d names, of which one is subscribed to", i)
		}
		s.answered()
	}
	if want := len(fmt.Sprintf("%s%d", long[:maxName-8], 3*maxNameBytes/maxName-1)); s.bytes != want {
		t.Errorf("%d bytes count, want %d", s.bytes, want)
	}
}

func TestStreamsThatDoNotBeginWellAreRefused(t *testing.T) {
	metadata := func(field, value string) *structpb.Struct {
		return &structpb.Struct{Fields: map[string]*structpb.Value{field: structpb.NewStringValue(value)}}
	}
	for want, request := range map[string]*discoveryv3.DeltaDiscoveryRequest{
		"DeadlineExceeded: no request within 10s":                                             nil,
		"InvalidArgument: the first request must have a node with an id":                      {TypeUrl: Address, Node: &corev3.Node{}},
		`InvalidArgument: proxies of type "sidecar" are not served here`:                      {TypeUrl: Address, Node: &corev3.Node{Id: "sidecar~1"}},
		`PermissionDenied: resources of type "` + L7 + `" are for waypoints`:                  {TypeUrl: L7},
		`InvalidArgument: resources of type "cds" are not served here`:                        {TypeUrl: "cds"},
		`PermissionDenied: NODE_NAME is "other" in the request, but "node1" in the token`:     {TypeUrl: Address, Node: &corev3.Node{Id: "ztunnel~1", Metadata: metadata("NODE_NAME", "other")}},
		`PermissionDenied: SERVICE_ACCOUNT is "x" in the request, but "ztunnel" in the token`: {TypeUrl: Address, Node: &corev3.Node{Id: "ztunnel~1", Metadata: metadata("SERVICE_ACCOUNT", "x")}},
	} {
		inBubble(t, func(b *bench) {
			if request != nil {
				b.send(request)
			}
			b.wantEnd(want)
		})
	}
}

func TestOnlyNodeProxiesLearnWhatIsInTheMesh(t *testing.T) {
	for _, caller := range []Caller{{"demo", "frontend", "node1", "", ""}, {"istio-system", "default", "node1", "", ""}, {"demo", "ztunnel", "node1", "", ""}} {
		inBubbleAs(t, caller, func(b *bench) {
			b.subscribe(Address)
			b.wantEnd("PermissionDenied: account " + caller.Namespace + "/" + caller.ServiceAccount + " is not among the trusted node accounts")
		})
	}
}

func TestAProxyThatAcknowledgesWhatItDidNotReadIsCutOff(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.subscribe(Address, Authorization)
		synctest.Wait() // both answers are ready, and neither is read
		for i, typeURL := range []string{Authorization, Address} {
			b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResponseNonce: fmt.Sprint(1 + i)})
		}
		publish(t, b.log, "w/a=1")
		b.wantEnd("Aborted: a push was not acknowledged within 30s")
		if got := b.metric("pilot_xds_pushes"); got != 1 {
			t.Errorf("%v pushes", got)
		}
	})
}

func TestARoundHasAllOfItsTimeAfterOthers(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.subscribe(Address, Authorization)
		b.take(Authorization)
		b.take(Address)
		time.Sleep(patience - time.Second)
		publish(t, b.log, "w/a=1")
		response, _ := b.next()
		time.Sleep(patience - time.Second)
		b.ack(response)
		time.Sleep(2 * patience)
		publish(t, b.log, "w/a=2")
		began := time.Now()
		b.next()
		b.wantEnd("Aborted: a push was not acknowledged within 30s")
		if took := time.Since(began); took != patience {
			t.Errorf("cut off after %s", took)
		}
	})
}

// What happens while the first answer waits for the proxy's other subscriptions.
func TestAReconnectIsToldWhatChangesMeanwhile(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a=1", "w/b=1", "w/c=1")
		versions := map[string]string{"w/later": "1"}
		for _, resource := range b.log.All(Address) {
			versions[resource.Name] = resource.Version
		}
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, InitialResourceVersions: versions})
		synctest.Wait()
		var more, gone []string
		for i := range maxGraves + 1 { // so that graves are looked through, and numbers of entries come free
			more, gone = append(more, fmt.Sprint("w/x", i, "=1")), append(gone, fmt.Sprint("w/x", i))
		}
		publish(t, b.log, "w/a", "w/b=2", "w/later=1")
		publish(t, b.log, more...)
		publish(t, b.log, gone...)
		publish(t, b.log, "w/new=1")
		response, _ := b.next()
		got := contents(response)
		for _, want := range []string{"w/b", "w/later", "w/new", "-w/a"} {
			if !slices.Contains(got, want) {
				t.Errorf("%s is not told", want)
			}
		}
		for _, other := range []string{"w/c", "-w/c", "-w/later"} {
			if slices.Contains(got, other) {
				t.Errorf("%s is told", other)
			}
		}
	})
}

func TestVersionsThatCannotBeReadEndTheStream(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a=1")
		b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, InitialResourceVersions: map[string]string{"w/a": "no checksum", "w/b": strings.Repeat("f", 17)}})
		b.take(Address, "w/a", "-w/b")
	})
	for name, broken := range map[string]string{"an entry": "\x2a\x02\x0a\x05", "a name": "\x2a\x05\x0a\x03w/\xff"} {
		inBubble(t, func(b *bench) {
			encoded, err := proto.Marshal(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: Address, Node: &corev3.Node{Id: b.id}})
			if err != nil {
				t.Fatal(err)
			}
			b.line.raw = append(encoded, broken...)
			b.send(&discoveryv3.DeltaDiscoveryRequest{})
			select {
			case err := <-b.ended:
				if status.Code(err) != codes.InvalidArgument {
					t.Errorf("%s: %v", name, err)
				}
			case <-time.After(time.Minute):
				t.Errorf("%s is taken", name)
			}
		})
	}
}

// A stock ztunnel with on-demand configuration says only by its versions, which are empty, what it had asked for.
func TestAProxyByNameThatComesBackHasAskedForWhatItHas(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a=1", "w/b=1")
		b.send(&discoveryv3.DeltaDiscoveryRequest{
			TypeUrl: Address, ResourceNamesSubscribe: []string{"*"}, ResourceNamesUnsubscribe: []string{"*", "w/left"},
			InitialResourceVersions: map[string]string{"w/a": "", "w/gone": "", "w/left": ""},
		})
		b.take(Address, "w/a", "-w/gone")
		publish(t, b.log, "w/b=2")
		b.silent(time.Second)
		publish(t, b.log, "w/a=2")
		b.take(Address, "w/a")
		publish(t, b.log, "w/left=1")
		b.silent(time.Second)
	})
}

func TestSilentStreamsHoldOthersUpForLessThanASecond(t *testing.T) {
	inBubble(t, func(b *bench) {
		var others []func()
		mine := b.line
		ended := b.ended
		for range 2 * turns {
			others = append(others, b.connect())
		}
		synctest.Wait()
		publish(t, b.log, "w/a=1")
		hangUp := b.connect()
		began := time.Now()
		b.subscribe(Address, Authorization)
		b.take(Authorization)
		b.take(Address, "w/a")
		if took := time.Since(began); took > 2*turn {
			t.Errorf("it took %s", took)
		}
		time.Sleep(2 * turn)
		if left := len(b.server.hearing); left != 0 {
			t.Errorf("%d who say nothing are still waited for", left)
		}
		hangUp()
		for _, other := range others {
			other()
		}
		b.line, b.ended = mine, ended
	})
}

func TestAStreamThatWaitsToBeHeardIsNotBlamed(t *testing.T) {
	inBubble(t, func(b *bench) {
		mine, ended := b.line, b.ended
		time.Sleep(2 * turn) // after which mine has no turn any more
		for range turns {
			b.server.hearing <- struct{}{}
		}
		hangUp := b.connect()
		began := time.Now()
		b.wantEnd("DeadlineExceeded: no request within 10s")
		if took := time.Since(began); took != queueing+greeting {
			t.Errorf("after %s", took)
		}
		hangUp()
		for range turns {
			<-b.server.hearing
		}
		b.line, b.ended = mine, ended
	})
}

func TestAnAcknowledgementBeforeTheRestIsWritten(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.subscribe(Address, Authorization)
		synctest.Wait()
		for i, typeURL := range []string{Authorization, Address} { // nonces are foreseen
			b.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResponseNonce: fmt.Sprint(1 + i)})
		}
		for _, typeURL := range []string{Authorization, Address} {
			if response, _ := b.next(); response.TypeUrl != typeURL {
				t.Errorf("%s came, want %s", response.TypeUrl, typeURL)
			}
		}
		publish(t, b.log, "w/a=1")
		b.take(Address, "w/a")
	})
}

func TestNumbersOfWhatWentAreUsedAgain(t *testing.T) {
	log := NewLog()
	for round := range 3 {
		for i := range 2 * maxGraves {
			publish(t, log, fmt.Sprint("w/", round, "-", i, "=1"))
			publish(t, log, fmt.Sprint("w/", round, "-", i))
		}
	}
	if count := log.live[Address].count; count != 1 {
		t.Errorf("%d numbers for one resource at a time", count)
	}
}

func TestAProxyMayHaveWhatCameAfterItDid(t *testing.T) {
	had := &held{numbers: make([]uint64, 1)}
	had.note(64) // of a resource that came while its versions were read
	had.note(63)
	if had.numbers[0] != 1<<63 {
		t.Errorf("%b", had.numbers)
	}
}
