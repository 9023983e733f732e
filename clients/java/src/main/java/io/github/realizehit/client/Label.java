package io.github.realizehit.client;

/** What stands before the question mark of a message: the id, and behind {@code @} fields joined by {@code &}. */
final class Label {
    final String id;
    final String channel; // empty if there is none
    final String offset; // null if there is none

    private Label(String id, String channel, String offset) {
        this.id = id;
        this.channel = channel;
        this.offset = offset;
    }

    /**
     * Reads a label. Fields that are not known are ignored.
     *
     * @param text the message
     * @param end the index of its first question mark
     */
    static Label of(String text, int end) {
        String head = text.substring(0, end);
        int at = head.indexOf('@');
        if (at < 0) {
            return new Label(head, "", null);
        }
        String channel = "";
        String offset = null;
        for (String field : head.substring(at + 1).split("&")) {
            if (field.startsWith("c=")) {
                channel = field.substring(2);
            } else if (field.startsWith("o=")) {
                offset = field.substring(2);
            }
        }
        return new Label(head.substring(0, at), channel, offset);
    }
}
