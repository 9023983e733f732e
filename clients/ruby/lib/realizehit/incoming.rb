# frozen_string_literal: true

require "json"

require_relative "errors"
require_relative "message"

module Realizehit
  # Reads what the server sends, and hands it to the topics and to whoever waits for an answer. It is used with the
  # client's lock held.
  #
  # @api private
  class Incoming
    MAX_SECONDS = 86_400
    ID_BYTES = 8
    MARK = "?".ord
    private_constant :MAX_SECONDS, :ID_BYTES, :MARK

    # @param pending [Hash{String => #call}] what to call with the answer to an action
    # @param by_id [Hash{String => Topic}] the topics that are in force
    # @param end_topic [#call] is called with a topic and the error for which the server ended it
    # @param expiring [#call] is called with the seconds after which the token ends
    # @param note [#call] is called with what an operator sent
    def initialize(pending, by_id, end_topic:, expiring:, note:)
      @pending = pending
      @by_id = by_id
      @end_topic = end_topic
      @expiring = expiring
      @note = note
    end

    # Takes one message. What a server of a later version may send is ignored.
    #
    # @param text [String]
    def take(text)
      return take_object(text) if text.start_with?("{")

      if text.getbyte(ID_BYTES) == MARK # the usual case; the general one is slower
        topic = @by_id[text.byteslice(0, ID_BYTES)]
        payload = text.byteslice(ID_BYTES + 1, text.bytesize)
        return topic.deliver(payload, nil, nil) if topic && !topic.pattern.wildcard?
      end
      head, mark, payload = text.partition("?")
      return if mark.empty?

      topic = @by_id[head]
      return topic.deliver(payload, nil, nil) if topic && !topic.pattern.wildcard?

      take_labelled(head, payload)
    end

    private

    def take_labelled(head, payload)
      topic = @by_id[head.partition("@").first]
      return if topic.nil?

      _, channel, offset = Head.parse(head)
      raise ArgumentError, "the field c is missing" if channel.nil? && topic.pattern.wildcard?

      topic.deliver(payload, channel, offset)
    rescue ArgumentError => e
      topic.malformed(e.message)
    end

    def take_object(text)
      message = JSON.parse(text)
      return take_event(message) unless message["id"].is_a?(String)

      answered = @pending.delete(message["id"])
      answered&.call(message)
    rescue JSON::ParserError # also of what is nested too deeply
      nil # of a later version
    end

    def take_event(event)
      case event["evt"]
      when "expiring" then @expiring.call(seconds_of(event))
      when "note" then @note.call(event["note"])
      when "gap" then gap(event)
      when "unsubscribed"
        error = Refusal.error("the server ended the subscription: #{event['reason']}", code: event["code"].to_s)
        topics_of(event).each { |topic| @end_topic.call(topic, error) }
      end
    end

    def seconds_of(event)
      seconds = event["seconds"]
      seconds.is_a?(Numeric) ? seconds.clamp(0, MAX_SECONDS) : 0
    end

    def topics_of(event)
      event["ids"].is_a?(Array) ? @by_id.values_at(*event["ids"]).compact : []
    end

    def gap(event)
      positions = event["at"].is_a?(Hash) ? event["at"] : {}
      topics_of(event).each do |topic|
        topic.move_to(positions[topic.id])
        topic.members.each { |member| member.gap(seconds_of(event)) }
      end
    end
  end
  private_constant :Incoming
end
