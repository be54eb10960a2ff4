package push

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// large is a value that makes a mesh large.
var large = strings.Repeat("x", much)

// TestALargeMeshIsHandedOutToAFewAtATime has proxies that come at once and don't acknowledge what they get.
func TestALargeMeshIsHandedOutToAFewAtATime(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a="+large)
		mine, ended := b.line, b.ended
		var lines []*line
		var ends []func()
		for range handouts + 2 {
			ends = append(ends, b.connect())
			lines = append(lines, b.line)
			b.subscribe(Address, Authorization)
		}
		var have []*line
		var answers []*discoveryv3.DeltaDiscoveryResponse
		collect := func() {
			for some := true; some; {
				synctest.Wait()
				some = false
				for _, one := range lines {
					select {
					case response := <-one.down:
						some = true
						if response.TypeUrl == Address {
							have, answers = append(have, one), append(answers, response)
						}
					default:
					}
				}
			}
		}
		wantHave := func(when string, want int) {
			t.Helper()
			if collect(); len(have) != want {
				t.Errorf("%s %d have everything, want %d", when, len(have), want)
			}
		}
		wantHave("at first", handouts)
		b.line = have[0]
		b.ack(answers[0])
		b.ack(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: Authorization, Nonce: "1"})
		wantHave("once one of them is through", handouts+1)
		time.Sleep(handout)
		wantHave("when the others have had their time", handouts+2)
		for _, end := range ends {
			end()
		}
		b.line, b.ended = mine, ended
	})
}

func TestASmallMeshIsHandedOutToAllAtOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a="+large, "w/b=1")
		publish(t, b.log, "w/a") // the mesh was large
		mine, ended := b.line, b.ended
		var ends []func()
		for range handouts + 1 {
			ends = append(ends, b.connect())
			b.subscribe(Address, Authorization)
			if response, took := b.next(); response.TypeUrl != Authorization || took != 0 {
				t.Errorf("%s after %s", short(response.TypeUrl), took)
			}
		}
		for _, end := range ends {
			end()
		}
		b.line, b.ended = mine, ended
	})
}

// TestAProxyHasTimeToReadALargeRound may read a mebibyte in a second.
func TestAProxyHasTimeToReadALargeRound(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a="+large, "w/b="+large, "w/c="+large)
		b.subscribe(Address)
		b.next()
		start := time.Now()
		b.wantEnd("Aborted: a push was not acknowledged within 33s")
		if took := time.Since(start); took != patience+3*time.Second {
			t.Errorf("after %s", took)
		}
	})
}

// TestAHandoutIsNotWaitedForForever has places taken by whoever doesn't give them back.
func TestAHandoutIsNotWaitedForForever(t *testing.T) {
	inBubble(t, func(b *bench) {
		publish(t, b.log, "w/a="+large)
		for range handouts {
			b.server.handing <- struct{}{}
		}
		b.subscribe(Address, Authorization)
		if _, took := b.next(); took != patience {
			t.Errorf("it came after %s", took)
		}
		for range handouts {
			<-b.server.handing
		}
	})
}
