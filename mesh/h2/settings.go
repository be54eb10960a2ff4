package h2

import "encoding/binary"

// Settings of RFC 9113 section 6.5.2.
const (
	settingHeaderTable   = 0x1
	settingEnablePush    = 0x2
	settingMaxStreams    = 0x3
	settingInitialWindow = 0x4
	settingMaxFrameSize  = 0x5
	settingMaxHeaderList = 0x6
	settingConnect       = 0x8 // RFC 8441 section 3
)

const (
	minMaxFrameSize = 1 << 14
	maxMaxFrameSize = 1<<24 - 1
	hpackTable      = 4096 // bytes of either side's dynamic table
)

// peerSettings is what the peer announced, or the defaults.
type peerSettings struct {
	maxFrameSize  uint32
	maxStreams    uint32
	window        uint32 // of new streams
	maxHeaderList uint32
}

// receiveSettings applies a SETTINGS frame and queues its acknowledgement.
func (c *Conn) receiveSettings(h frameHeader, p []byte) (Event, error) {
	if h.has(flagAck) {
		if len(p) != 0 { // section 6.5
			return Event{}, c.fail(FrameSizeError, "SETTINGS acknowledgement with a payload")
		}
		return Event{}, c.spend(costUnknown, "SETTINGS acknowledgements")
	}
	if len(p)%6 != 0 { // section 6.5
		return Event{}, c.fail(FrameSizeError, "SETTINGS of a length that is no multiple of 6")
	}
	if len(p)/6 > maxSettings {
		return Event{}, c.fail(EnhanceYourCalm, "too many entries in SETTINGS")
	}
	if err := c.spend(costSettings, "SETTINGS"); err != nil {
		return Event{}, err
	}
	for ; len(p) > 0; p = p[6:] {
		if err := c.applySetting(setting{binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])}); err != nil {
			return Event{}, err
		}
	}
	c.settled = true
	c.control = appendFrameHeader(c.control, frameHeader{kind: frameSettings, flags: flagAck})
	return Event{Kind: EventSettings}, c.reply()
}

func (c *Conn) applySetting(s setting) error {
	switch s.id {
	case settingHeaderTable:
		// We never use more than the default; a peer may only ask for less (RFC 7541 section 4.2).
		c.encoder.SetMaxDynamicTableSize(min(s.value, hpackTable))
	case settingEnablePush:
		if s.value > 1 || (s.value == 1 && c.cfg.Role == Client) { // section 6.5.2
			return c.fail(ProtocolError, "illegal ENABLE_PUSH")
		}
	case settingMaxStreams:
		c.peer.maxStreams = s.value
	case settingInitialWindow:
		return c.applyWindow(s.value)
	case settingMaxFrameSize:
		if s.value < minMaxFrameSize || s.value > maxMaxFrameSize { // section 6.5.2
			return c.fail(ProtocolError, "illegal MAX_FRAME_SIZE")
		}
		c.peer.maxFrameSize = s.value
	case settingMaxHeaderList:
		c.peer.maxHeaderList = s.value
	}
	return nil // section 6.5.2: what is unknown is ignored
}

// applyWindow moves the windows of all streams by the difference (section 6.9.2).
func (c *Conn) applyWindow(value uint32) error {
	if value > maxWindow {
		return c.fail(FlowControlError, "illegal INITIAL_WINDOW_SIZE")
	}
	change := int64(value) - int64(c.peer.window)
	c.peer.window = value
	for _, s := range c.streams {
		if !s.send.grow(change) {
			return c.fail(FlowControlError, "INITIAL_WINDOW_SIZE makes a window too large")
		}
		if s.send <= 0 {
			c.ready.remove(s)
		} else {
			c.queue(s)
		}
	}
	return nil
}
