package h2

// What a peer may make us do for nothing between two Ticks, in points. A peer that behaves comes nowhere near: it sends one PING
// in 10 s and resets an unanswered stream when a user gives up. What it may do is small beside the cost of a TLS handshake.
const (
	budgetPerTick  = 20_000
	costEmptyFrame = 5   // DATA that carries nothing and ends nothing, CONTINUATION that carries nothing
	costUnknown    = 1   // frames that mean nothing to us
	costWindow     = 1   // WINDOW_UPDATE, beyond what answers our DATA
	costPing       = 20  // has to be answered
	costGoAway     = 100 // touches every stream
	costInterim    = 20  // an answer that isn't one yet
	costSettings   = 100 // has to be answered, touches every stream
	costReset      = 20  // a stream that was reset before it was answered (CVE-2023-44487)
	costBadStream  = 20  // a stream that we had to refuse or reset
)

const (
	maxReplies       = 1000 // answers that wait because the peer doesn't read
	maxContinuations = 32   // frames of one header block
	maxSettings      = 64   // entries of one SETTINGS frame
	windowsPerData   = 10   // WINDOW_UPDATEs that a peer may send for each of our DATA frames; two are usual, one for the stream and one for the connection
	bomb             = 4    // header lists that many times as long as we allow end the connection, not just their stream
)

// Tick renews what the peer may waste. The driver calls it every 10 s or so.
func (c *Conn) Tick() {
	c.budget = budgetPerTick
	c.windows = 0 // what answers our DATA has come by now, or finds room in the budget; nobody saves up for a flood
}

// spend takes points; without any left the connection ends (RFC 9113 section 10.5).
func (c *Conn) spend(points int, what string) error {
	if c.budget -= points; c.budget < 0 {
		return c.fail(EnhanceYourCalm, "too many "+what)
	}
	return nil
}

// Pardon takes back what the reset of an unanswered stream has cost: its driver, who knows the time, has seen that the stream was open for long. Of
// such the peer has no more than there may be streams.
func (c *Conn) Pardon() { c.budget = min(c.budget+costReset, budgetPerTick) }

// opened counts a WINDOW_UPDATE.
func (c *Conn) opened() error {
	if c.windows > 0 {
		c.windows--
		return nil
	}
	return c.spend(costWindow, "WINDOW_UPDATEs")
}

// reply counts a frame that the peer made us send.
func (c *Conn) reply() error {
	if c.replies++; c.replies > maxReplies {
		return c.fail(EnhanceYourCalm, "the peer does not read our answers")
	}
	return nil
}
