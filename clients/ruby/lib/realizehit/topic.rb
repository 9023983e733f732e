# frozen_string_literal: true

require_relative "message"

module Realizehit
  # A pattern that is subscribed to: once on the wire, for all its subscriptions. Its methods need the client's lock.
  #
  # @api private
  class Topic
    # @return [Pattern]
    attr_reader :pattern
    # @return [Backoff]
    attr_reader :delays
    # @return [Array<Feed>]
    attr_reader :members
    # @return [String, nil] its label on the wire; nil while it is not in force
    attr_accessor :id
    # @return [String, nil] the id of its last action sub
    attr_accessor :request
    # @return [Integer, nil] milliseconds in which the server sends at most one message
    attr_reader :every
    # @return [Error, nil] why it has ended
    attr_accessor :error

    # @param delays [Backoff] before the server is asked again for what it cannot serve now
    # @param changed [MonitorMixin::ConditionVariable] is signalled when it is in force or has ended
    def initialize(pattern, changed, delays, since:, last:, offsets:, every:)
      @pattern = pattern
      @changed = changed
      @delays = delays
      @members = []
      @position = since
      @epoch = epoch_of(since)
      @last = last
      @every = every
      @positions = offsets || !since.nil? || !last.nil?
      @known = false
    end

    # The canonical text of its pattern.
    def text
      @pattern.text
    end

    # Whether it was in force at least once.
    def known?
      @known
    end

    # Waits until it is in force or has ended.
    def wait(timeout)
      @changed.wait(timeout)
    end

    # Whether it is in force or has ended.
    def settled?
      !(@id.nil? && @error.nil?)
    end

    # @return [Hash] the action that subscribes to it, from its last message on where positions are known
    def action
      extra =
        if @position then { since: @position }
        elsif @last && !@known then { last: @last }
        elsif @positions then { offsets: true }
        end
      { act: "sub", pat: @pattern, **extra.to_h, **(@every ? { every: @every } : {}) }
    end

    # Takes the answer to its action.
    def in_force(id, reply)
      resumes = !@position.nil?
      recovered = resumes && reply["recovered"] == true
      move_to(reply["at"], keep: recovered)
      @id = id
      @known = true
      @delays.reset
      @members.each do |member|
        member.gap(0) if resumes && !recovered && !member.away? # the program's own `since` cannot be served
        member.in_force(recovered)
      end
      @changed.broadcast
    end

    # The server is, or goes on, at a position.
    def move_to(position, keep: false)
      return unless position.is_a?(String) && @positions

      @epoch = epoch_of(position)
      @position = position unless keep
    end

    # The connection is lost; nothing came since then.
    def interrupted(since)
      @id = nil
      @members.each { |member| member.interrupted(since) }
    end

    # Gives a message to all subscriptions.
    def deliver(text, channel, offset)
      position = offset && position_of(offset)
      @position = position if position
      @members.each { |member| member.put(Message.new(text, channel || self.text, position)) }
    end

    # Tells once that labels are malformed.
    def malformed(problem)
      return if @complained

      @complained = true
      what = "a message of #{text} has a malformed label and was left out, as later ones will be"
      error = Rejected.new("#{what}: #{problem}")
      @members.each { |member| member.complain(error) }
    end

    # Ends all subscriptions.
    #
    # @param error [Error, nil] nil if the client was closed
    def finish(error)
      @error = error || Closed.new("the client is closed")
      members = @members.dup
      @members.clear
      members.each do |member|
        if @known
          member.finish(error)
        else # Client#subscribe raises the error
          member.stop(error)
          member.move(:unsubscribed)
        end
      end
      @changed.broadcast
    end

    private

    def epoch_of(position)
      position&.partition(".")&.first
    end

    def position_of(offset)
      return unless @positions

      return @epoch && "#{@epoch}.#{offset}" unless offset.include?(".")

      @epoch = epoch_of(offset)
      offset
    end
  end
  private_constant :Topic
end
