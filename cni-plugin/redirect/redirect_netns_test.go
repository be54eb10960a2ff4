package redirect_test

import (
	"testing"

	"github.com/tulle-mesh/tulle/cni-plugin/redirect"
	"github.com/tulle-mesh/tulle/mesh/meshtest/netns"
)

func TestEveryStateIsReadBackAsItWasSet(t *testing.T) {
	ns := netns.New(t, "tulle-redirect-test")
	for _, state := range []redirect.State{redirect.Removed, redirect.Capture, redirect.Capture, redirect.Draining, redirect.Capture, redirect.Removed, redirect.Draining, redirect.Removed} {
		if err := redirect.Set(ns.Netns, state); err != nil {
			t.Fatal(err)
		}
		got, err := redirect.Current(ns.Netns)
		if err != nil || got != state {
			t.Fatalf("state is %s (%v), want %s", got, err, state)
		}
		text, _ := redirect.Listing(ns.Netns)
		t.Log(text)
	}
}
