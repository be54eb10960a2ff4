package h2c

import (
	"testing"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// contract stands between the two codecs of an exchange and holds each to the rules of package exchange.
type contract struct {
	tb     testing.TB
	server exchange.Server
	client exchange.Client

	upgrade   bool
	complete  bool // the request has ended
	responded bool
	upgraded  bool
	over      bool
	request   int // bytes given and not consumed
	answer    int
	length    int64 // of the request that is still to come; negative if unknown
}

// held has handle's exchanges keep the contract.
func held(tb testing.TB, handle exchange.Handler) exchange.Handler {
	return func(req *exchange.Request, client exchange.Client) exchange.Server {
		c := &contract{tb: tb, client: client, upgrade: req.Upgrade != "", length: req.Length}
		c.server = handle(req, answering{c})
		return asking{c}
	}
}

func (c *contract) must(rule string, kept bool) {
	c.tb.Helper()
	if !kept {
		c.tb.Errorf("contract: %s", rule)
	}
}

func (c *contract) may(rule string) {
	c.tb.Helper()
	c.must(rule+" after the end", !c.over)
	c.must(rule+" before the Handler has returned", c.server != nil)
}

// asking is what the client's side calls.
type asking struct{ *contract }

func (c asking) Data(p []byte) {
	c.may("Data of the request")
	c.must("Data after the request's End", !c.complete)
	c.must("Data before the upgrade", !c.upgrade || c.upgraded)
	c.request += len(p)
	c.must("more of the request than the window", c.request <= exchange.Window)
	if c.length >= 0 && !c.upgraded {
		c.length -= int64(len(p))
		c.must("more of the request than its length", c.length >= 0)
	}
	c.server.Data(p)
}

func (c asking) End(trailers []exchange.Field) {
	c.may("End of the request")
	c.must("End twice", !c.complete)
	c.must("End before the upgrade", !c.upgrade || c.upgraded)
	c.must("less of the request than its length", c.length <= 0 || c.upgraded)
	c.complete = true
	c.server.End(trailers)
}

func (c asking) Abort(err error) {
	c.may("Abort of the request")
	c.must("Abort without a reason", err != nil)
	c.over = true
	c.server.Abort(err)
}

func (c asking) Consumed(n int) {
	c.may("Consumed of the answer")
	c.answer -= n
	c.must("more of the answer consumed than was given", c.answer >= 0)
	c.server.Consumed(n)
}

// answering is what the server's side calls.
type answering struct{ *contract }

func (c answering) Inform(r *exchange.Response) {
	c.may("Inform")
	c.must("Inform of another status", 100 <= r.Status && r.Status < 200 && r.Status != 101)
	c.must("Inform after Respond", !c.responded)
	c.client.Inform(r)
}

func (c answering) Respond(r *exchange.Response) {
	c.may("Respond")
	c.must("Respond twice", !c.responded)
	c.must("Respond of an interim status", r.Status >= 200 || (r.Status == 101 && c.upgrade))
	c.responded, c.upgraded = true, r.Status == 101
	c.client.Respond(r)
}

func (c answering) Data(p []byte) {
	c.may("Data of the answer")
	c.must("Data before Respond", c.responded)
	c.answer += len(p)
	c.must("more of the answer than the window", c.answer <= exchange.Window)
	c.client.Data(p)
}

func (c answering) End(trailers []exchange.Field) {
	c.may("End of the answer")
	c.must("End before Respond", c.responded)
	c.over = true
	c.client.End(trailers)
}

func (c answering) Abort(err error) {
	c.may("Abort of the answer")
	c.must("Abort without a reason", err != nil)
	c.over = true
	c.client.Abort(err)
}

func (c answering) Consumed(n int) {
	c.may("Consumed of the request")
	c.must("Consumed after the request's End", !c.complete)
	c.request -= n
	c.must("more of the request consumed than was given", c.request >= 0)
	c.client.Consumed(n)
}
