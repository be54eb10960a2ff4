package nodeagent

import (
	"testing"

	"github.com/tulle-mesh/tulle/e2e/apiserver"
	"github.com/tulle-mesh/tulle/mesh/meshtest/fakeproxy"
)

// TestTheRightsOfTheManifestAreEnoughAndAllNeeded: nothing that the agent asks for is refused, and every right is used.
func TestTheRightsOfTheManifestAreEnoughAndAllNeeded(t *testing.T) {
	// What a server streams needs no right to list it, but older ones don't.
	own, err := serve(t.Context(), apiserver.Config{Dir: t.TempDir(), Audit: true, Lists: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := own.Stop(); err != nil {
			t.Error(err)
		}
	})
	w := newWorldOf(t, own, ambient)
	w.runtime().network()
	w.apply(daemonSet)
	stop, _ := w.start()
	fakeproxy.Connect(t, w.zds(), nil)
	wrong, right := podSpec{annotations: `ambient.istio.io/dns-capture: "maybe"`}, podSpec{annotations: `ambient.istio.io/dns-capture: "true"`}
	cart := w.pod("cart", wrong)
	w.eventually("enabled", cart.says)
	cart.apply(right)
	cart.until("enabled", "enrolled nft capture with DNS label on the namespace")
	cart.apply(wrong) // the same event again is counted, not written anew
	w.eventually("ready\n", func() string { return w.ask("/readyz") })
	all, err := apiserver.Rights(manifest)
	w.must(err)
	requests := func() []apiserver.Request {
		requests, err := own.Requests()
		w.must(err)
		return apiserver.By(apiserver.AccountPrefix(system)+"istio-cni", requests)
	}
	w.eventually("", func() string {
		if err := apiserver.Unused(all, requests(), system); err != nil {
			return err.Error()
		}
		return ""
	})
	stop()
	for _, refused := range apiserver.Forbidden(requests()) {
		t.Errorf("refused: %s", refused)
	}
}
