# frozen_string_literal: true

require_relative "feed"
require_relative "message"

module Realizehit
  # What a client subscribed to; {Client#subscribe} makes it.
  #
  # Read it with {#each} or {#next}, or give {Client#subscribe} a block. Several threads may read: each message goes to
  # one of them.
  class Subscription
    include Enumerable

    # @api private
    # @param unsubscribe [#call] ends the feed
    def initialize(feed, unsubscribe)
      @feed = feed
      @unsubscribe = unsubscribe
    end

    # @return [Pattern]
    def pattern
      @feed.topic.pattern
    end

    # @return [Symbol] :subscribing (also while the connection is away), :subscribed, :unsubscribing or :unsubscribed
    def state
      @feed.state
    end

    # @return [String, nil] the pattern's label on the wire; nil if the subscription is not in force
    def id
      @feed.topic.id
    end

    # @return [Integer] how many messages were lost because the queue was full
    def dropped
      @feed.dropped
    end

    # @return [Error, nil] the error that ended the subscription
    def error
      @feed.error
    end

    # Returns the next message, and waits for it.
    #
    # @param timeout [Numeric, nil] seconds; nil waits as long as it takes
    # @return [Message, nil] nil if none came in time
    # @raise [StopIteration] once the subscription has ended
    # @raise [Error] the error that ended it
    def next(timeout: nil)
      message = @feed.take(timeout)
      raise StopIteration, "the subscription has ended" if message == :ended

      message
    end

    # Yields the messages until the subscription ends. Without a block it returns an Enumerator.
    #
    # @raise [Error] the error that ended it
    def each
      return enum_for(:each) unless block_given?

      while (message = @feed.take(nil)) != :ended
        yield message
      end
      self
    end

    # Ends the subscription, and waits until the server has confirmed it. What waits in the queue is thrown away.
    #
    # @raise [ResponseTimeout] if there was no confirmation in time; the subscription has ended all the same
    def unsubscribe
      @unsubscribe.call(@feed)
      nil
    end

    def inspect
      "#<#{self.class} #{pattern} #{state}>"
    end
  end
end
