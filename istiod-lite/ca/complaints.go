package ca

import (
	"context"
	"log/slog"
	"net"
	"sync/atomic"

	"google.golang.org/grpc/peer"
)

// A client is complained of so often per second in the long run, and so many times at once.
const complaints, complaintsAtOnce = 1, 50

// Complaints are what is logged of clients that do something wrong, so that none of them can fill the log: what isn't said
// is counted, and how much that was is said with the next complaint, whoever that is about.
type Complaints struct {
	limit  *Limit
	unsaid atomic.Int64
}

// NewComplaints makes them.
func NewComplaints() *Complaints { return &Complaints{limit: NewLimit(complaints, complaintsAtOnce)} }

// Say logs what is wrong with a client, unless there were too many complaints of it lately.
func (c *Complaints) Say(log *slog.Logger, level slog.Level, client, message string, err error) {
	if !c.limit.Allow(client) {
		c.unsaid.Add(1)
		return
	}
	if unsaid := c.unsaid.Swap(0); unsaid > 0 {
		log = log.With("unsaid", unsaid)
	}
	log.Log(context.Background(), level, message, "err", err)
}

// AddressOf names the machine that called.
func AddressOf(ctx context.Context) string {
	from, known := peer.FromContext(ctx)
	if !known {
		return ""
	}
	if tcp, ok := from.Addr.(*net.TCPAddr); ok {
		return tcp.IP.String()
	}
	return from.Addr.String()
}
