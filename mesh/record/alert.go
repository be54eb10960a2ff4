package record

import "fmt"

// Alert is the description of a TLS alert (RFC 8446 section 6).
type Alert uint8

const (
	CloseNotify       Alert = 0
	UnexpectedMessage Alert = 10
	BadRecordMAC      Alert = 20
	RecordOverflow    Alert = 22
	IllegalParameter  Alert = 47
	DecodeError       Alert = 50
	InternalError     Alert = 80
	UserCanceled      Alert = 90
)

// alertNames are those of RFC 8446 section 6, as they are known to users of other programs.
var alertNames = map[Alert]string{
	CloseNotify: "close_notify", UnexpectedMessage: "unexpected_message", BadRecordMAC: "bad_record_mac", RecordOverflow: "record_overflow",
	40: "handshake_failure", 42: "bad_certificate", 43: "unsupported_certificate", 44: "certificate_revoked", 45: "certificate_expired",
	46: "certificate_unknown", IllegalParameter: "illegal_parameter", 48: "unknown_ca", 49: "access_denied", DecodeError: "decode_error",
	51: "decrypt_error", 70: "protocol_version", 71: "insufficient_security", InternalError: "internal_error", 86: "inappropriate_fallback",
	UserCanceled: "user_canceled", 109: "missing_extension", 110: "unsupported_extension", 112: "unrecognized_name",
	113: "bad_certificate_status_response", 115: "unknown_psk_identity", 116: "certificate_required", 120: "no_application_protocol",
}

func (a Alert) String() string {
	if name, ok := alertNames[a]; ok {
		return name
	}
	return fmt.Sprintf("alert %d", uint8(a))
}

// level is warning for the two alerts that don't tell of an error, else fatal.
func (a Alert) level() byte {
	if a == CloseNotify || a == UserCanceled {
		return 1
	}
	return 2
}

// RemoteAlert is the alert with which the peer ended the connection. It isn't answered.
type RemoteAlert Alert

func (a RemoteAlert) Error() string {
	return "peer ended the connection with TLS alert " + Alert(a).String()
}

// AlertError is what the peer did wrong, and the alert by which it's to be told so.
type AlertError struct {
	Alert  Alert
	Reason string
}

func (e *AlertError) Error() string { return fmt.Sprintf("peer broke TLS: %s (%s)", e.Reason, e.Alert) }
