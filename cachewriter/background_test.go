package cachewriter

import "testing"

func TestNobodyRestsInTheForeground(t *testing.T) {
	w := &Writer{}
	w.setBackground(true)
	background := w.foreground
	w.setBackground(false)
	for _, c := range []<-chan struct{}{background, w.foreground} {
		select {
		case <-c:
		default:
			t.Error("who rests is not told of the foreground")
		}
	}
	w.setBackground(true)
	select {
	case <-w.foreground:
		t.Error("it is still in the foreground")
	default:
	}
}
