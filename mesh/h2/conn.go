package h2

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/net/http2/hpack"
)

const (
	maxStreamID   = 1<<31 - 1
	assumedMax    = 100 // peer's limit of streams before its SETTINGS
	shutdownPing  = 0x74756c6c65474f41
	rememberReset = 32 // ids of streams that we reset last; their frames may still be under way
)

// Conn is one connection's state. Its driver feeds Receive, sends what Control and AppendData give, and does so
// whenever HasOutput says that there is something.
type Conn struct {
	cfg Config
	err *ConnError // set once the connection is over

	// Receiving.
	in       parser
	budget   int // what the peer may still do that costs us work and brings nothing, see limit.go
	windows  int // WINDOW_UPDATEs that the peer may send for our DATA
	recv     receiveWindow
	decoder  *hpack.Decoder
	fields   []hpack.HeaderField
	listSize uint32
	settled  bool // the peer's first SETTINGS came

	// Sending.
	control  []byte
	replies  int // frames in control that the peer made us send
	send     sendWindow
	ready    schedule
	peer     peerSettings
	encoded  bytes.Buffer
	encoder  *hpack.Encoder
	goneAway bool // we sent the final GOAWAY

	// Streams.
	streams  map[uint32]*stream
	active   int    // streams that count against the limit
	nextID   uint32 // of the next stream that we open (client)
	seen     uint32 // highest id that the peer opened (server)
	lastPeer uint32 // highest of those that we took, which GOAWAY names
	leaving  bool   // the peer sent GOAWAY
	dropped  [rememberReset]uint32
	dropNext int
}

// New makes a connection; what it has to say first is at once among the control bytes.
func New(cfg Config) *Conn {
	cfg.setDefaults()
	c := &Conn{
		cfg:     cfg,
		budget:  budgetPerTick,
		recv:    newReceiveWindow(cfg.ConnectionWindow),
		send:    initialWindow,
		peer:    peerSettings{maxFrameSize: minMaxFrameSize, maxStreams: assumedMax, window: initialWindow, maxHeaderList: maxWindow},
		streams: make(map[uint32]*stream),
		nextID:  1,
	}
	c.decoder = hpack.NewDecoder(hpackTable, c.collect)
	c.decoder.SetMaxStringLength(int(cfg.MaxHeaderList))
	c.encoder = hpack.NewEncoder(&c.encoded)
	settings := []setting{
		{settingInitialWindow, cfg.StreamWindow},
		{settingMaxFrameSize, cfg.MaxFrameSize},
		{settingMaxHeaderList, cfg.MaxHeaderList},
	}
	if cfg.Role == Client {
		c.control = append(c.control, preface...)
		settings = append(settings, setting{settingEnablePush, 0})
	} else {
		c.in.preface = len(preface)
		settings = append(settings, setting{settingMaxStreams, cfg.MaxStreams})
		if cfg.ExtendedConnect {
			settings = append(settings, setting{settingConnect, 1})
		}
	}
	c.control = appendSettings(c.control, settings...)
	if cfg.ConnectionWindow > initialWindow {
		c.control = appendWindowUpdate(c.control, 0, cfg.ConnectionWindow-initialWindow)
	}
	return c
}

// HasOutput tells that there are bytes to send: control bytes, or data whose windows are open.
func (c *Conn) HasOutput() bool {
	return len(c.control) > 0 || (!c.ready.empty() && c.send > 0 && c.err == nil)
}

// Control returns the control bytes that wait; they go before any data. They are valid until the next call of another method
// than Said.
func (c *Conn) Control() []byte { return c.control }

// Said tells that the first n of the control bytes are on their way.
func (c *Conn) Said(n int) {
	if n < len(c.control) {
		c.control = append(c.control[:0], c.control[n:]...)
		return
	}
	c.control = c.control[:0]
	if cap(c.control) > 4<<10 {
		c.control = nil // an idle connection owns little
	}
	c.replies = 0
}

// Err returns why the connection is over, or nil.
func (c *Conn) Err() error {
	if c.err == nil {
		return nil
	}
	return c.err
}

// Active returns the number of open streams.
func (c *Conn) Active() int { return c.active }

// Limit returns how many streams we may have open at once: the peer's limit, 100 before it told one; 0 when the connection
// is going away.
func (c *Conn) Limit() int {
	if c.ending() {
		return 0
	}
	return int(min(c.peer.maxStreams, maxStreamID))
}

// ending tells that no more streams can be opened.
func (c *Conn) ending() bool {
	return c.err != nil || c.leaving || c.goneAway || c.nextID > maxStreamID
}

// Unread returns the bytes of all streams that came and that nobody has consumed.
func (c *Conn) Unread() int64 { return c.recv.unread }

// Settled tells that the peer's settings came.
func (c *Conn) Settled() bool { return c.settled }

// Ping asks for an EventPong with the payload. The high bit is cleared, to keep our own pings apart.
func (c *Conn) Ping(payload uint64) {
	if c.err == nil {
		c.control = appendPing(c.control, 0, payload&^(1<<63))
	}
}

// Shutdown tells the peer to open no more streams (RFC 9113 section 6.8). A server first announces it, and after a round trip
// names the last stream that it takes, so that no request under way is lost. Open streams go on.
func (c *Conn) Shutdown() {
	if c.err != nil || c.goneAway {
		return
	}
	if c.cfg.Role == Client {
		c.goAway(NoError, "")
		return
	}
	c.control = appendGoAway(c.control, maxStreamID, NoError, "")
	c.control = appendPing(c.control, 0, shutdownPing|1<<63)
}

// Close ends the connection with a GOAWAY; every stream is dead. The control bytes are still to be sent.
func (c *Conn) Close(code Code, reason string) {
	if c.err == nil {
		_ = c.fail(code, reason)
	}
}

// fail makes err the connection's end and queues the GOAWAY that tells the peer.
func (c *Conn) fail(code Code, reason string) error {
	c.err = &ConnError{Code: code, Reason: reason}
	c.cfg.Reserve.settle(&c.recv)
	c.goAway(code, reason)
	return c.err
}

func (c *Conn) goAway(code Code, debug string) {
	c.goneAway = true
	c.control = appendGoAway(c.control, c.lastPeer, code, debug)
}

// pong handles a PING's answer.
func (c *Conn) pong(payload []byte) Event {
	value := binary.BigEndian.Uint64(payload)
	if value == shutdownPing|1<<63 && c.cfg.Role == Server {
		if !c.goneAway {
			c.goAway(NoError, "")
		}
		return Event{}
	}
	return Event{Kind: EventPong, Ping: value}
}

// GoneAway tells that we named the last stream that we take, or that the connection is over.
func (c *Conn) GoneAway() bool { return c.goneAway }
